# The flake attributes that have a type.
{ lib, config, moduleLocation, flake-parts-lib, ... }:
let
  inherit (lib) mkOption types;
  transposed = name: description: type: default:
    flake-parts-lib.mkTransposedPerSystemModule { inherit name; file = ./outputs.nix; option = mkOption { inherit type default description; }; };
  # A path of the store is a package to types.package, and a program here.
  program = types.coercedTo (types.package // { check = lib.isDerivation; }) lib.getExe types.str;
  app = types.submodule { options = {
    type = mkOption { type = types.enum [ "app" ]; default = "app"; description = "The only kind of app there is."; };
    program = mkOption { type = program; description = "Path of an executable."; };
    meta = mkOption { type = types.lazyAttrsOf types.raw; default = { }; description = "Metadata of the app."; };
  }; };
in
{
  _class = "flake";
  imports = [
    (transposed "apps" "Programs to run with nix run." (types.lazyAttrsOf app) { })
    (transposed "checks" "Derivations that nix flake check builds." (types.lazyAttrsOf types.package) { })
    (transposed "devShells" "Shells of nix develop." (types.lazyAttrsOf types.package) { })
    (transposed "packages" "Packages to build." (types.lazyAttrsOf types.package) { })
    (transposed "legacyPackages" "Nested packages and functions." (types.lazyAttrsOf types.raw) { })
  ];
  options.perSystem = flake-parts-lib.mkPerSystemOption {
    _file = ./outputs.nix;
    options.formatter = mkOption { type = types.nullOr types.package; default = null; description = "What nix fmt runs."; };
  };
  options.flake = {
    formatter = mkOption { type = types.lazyAttrsOf types.package; default = { }; description = "What nix fmt runs, by system."; };
    nixosConfigurations = mkOption { type = types.lazyAttrsOf types.raw; default = { }; description = "NixOS configurations."; };
    nixosModules = mkOption {
      type = types.lazyAttrsOf types.deferredModule;
      default = { };
      description = "NixOS modules.";
      apply = lib.mapAttrs (name: module: { _class = "nixos"; _file = "${toString moduleLocation}#nixosModules.${name}"; imports = [ module ]; });
    };
    overlays = mkOption { type = types.lazyAttrsOf (types.uniq (types.functionTo (types.functionTo (types.lazyAttrsOf types.unspecified)))); default = { }; description = "Overlays."; };
  };
  # As with the real one, a formatter for some systems only is an error for the others.
  config.flake.formatter = lib.optionalAttrs (lib.any (s: s.formatter != null) (lib.attrValues config.allSystems)) (lib.mapAttrs
    (system: s: if s.formatter != null then s.formatter else throw "perSystem.formatter is defined for some systems, but not for ${system}.")
    config.allSystems);
}
