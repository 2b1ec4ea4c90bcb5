# Modules of any class as an output: flake.modules.<class>.<name>.
{ lib, moduleLocation, ... }:
{
  _class = "flake";
  options.flake.modules = lib.mkOption {
    type = lib.types.lazyAttrsOf (lib.types.lazyAttrsOf lib.types.deferredModule);
    default = { };
    description = "Modules by class and name.";
    apply = lib.mapAttrs (class: lib.mapAttrs (name: module: {
      _file = "${toString moduleLocation}#modules.${class}.${name}";
      imports = [ module ];
    } // lib.optionalAttrs (class != "generic") { _class = class; }));
  };
}
