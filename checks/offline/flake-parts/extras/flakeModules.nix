# Flake modules as an output: a module that is imported twice counts once.
{ lib, moduleLocation, ... }:
{
  _class = "flake";
  # flakeModule is another name of the default one.
  imports = [ { options.flake = lib.mkOption { type = lib.types.submoduleWith { modules = [ (lib.mkAliasOptionModule [ "flakeModule" ] [ "flakeModules" "default" ]) ]; }; }; } ];
  options.flake.flakeModules = lib.mkOption {
    type = lib.types.lazyAttrsOf lib.types.deferredModule;
    default = { };
    description = "Modules for flake-parts flakes.";
    apply = lib.mapAttrs (name: module: {
      _class = "flake";
      key = "${toString moduleLocation}#flakeModules.${name}";
      _file = "${toString moduleLocation}#flakeModules.${name}";
      imports = [ module ];
    });
  };
}
