# Systems, perSystem, the flake's own attributes, and the way between the two.
{ lib, config, inputs, self, flake-parts-lib, ... }:
let
  inherit (lib) genAttrs mapAttrs mkOption mkOptionDefault types;
  isFlake = x: if x ? _type then x._type == "flake" else x ? inputs && x ? outputs && x ? sourceInfo;
  core = config;

  perSystemCore = { config, options, specialArgs, system, ... }: {
    _file = ./core.nix;
    options.allModuleArgs = mkOption { type = types.lazyAttrsOf types.raw; internal = true; readOnly = true; description = "All arguments, for withSystem."; };
    config = {
      allModuleArgs = config._module.args // specialArgs // { inherit config options; };
      _module.args = {
        self' = core.perInput system self;
        inputs' = mapAttrs
          (name: input:
            if isFlake input then builtins.addErrorContext "while retrieving system-dependent attributes for input ${name}" (core.perInput system input)
            else throw "Trying to retrieve system-dependent attributes for input ${name}, but this input is not a flake. Perhaps flake = false was added to the input declarations by mistake, or you meant to use a different input, or you meant to use plain old inputs, not inputs'.")
          inputs;
        pkgs = mkOptionDefault (inputs.nixpkgs.legacyPackages.${system} or (throw "flake-parts: The flake does not have a `nixpkgs` input for ${system}. Please add it, or set `perSystem._module.args.pkgs` yourself."));
      };
    };
  };
in
{
  _class = "flake";
  options = {
    systems = mkOption { type = types.listOf types.str; description = "The systems that perSystem is evaluated for."; };
    flake = mkOption {
      description = "The flake's attributes, as they are.";
      type = types.submoduleWith {
        modules = [ {
          freeformType = types.lazyAttrsOf (types.unique { message = "No option has been declared for this flake output attribute, so its definitions can't be merged automatically."; } types.raw);
        } ];
      };
    };
    processedFlake = mkOption { type = types.raw; internal = true; readOnly = true; description = "What mkFlake returns."; };
    transposition = mkOption {
      description = "The attributes that perSystem and the flake have in common.";
      default = { };
      type = types.lazyAttrsOf (types.submodule { options.adHoc = mkOption { type = types.bool; default = false; description = "No option stands behind it."; }; });
    };
    perInput = mkOption { type = types.functionTo (types.functionTo (types.lazyAttrsOf types.unspecified)); description = "system: flake: its attributes."; };
    perSystem = mkOption {
      type = flake-parts-lib.mkPerSystemType perSystemCore;
      description = "A module that is evaluated for each system.";
      apply = modules: system: (lib.evalModules { inherit modules; prefix = [ "perSystem" system ]; specialArgs = { inherit system; }; class = "perSystem"; }).config;
    };
    allSystems = mkOption { type = types.lazyAttrsOf types.unspecified; internal = true; description = "perSystem's results."; };
  };

  config = {
    perSystem = { };
    allSystems = genAttrs config.systems config.perSystem;
    processedFlake = config.flake;
    perInput = system: flake: mapAttrs (name: _: flake.${name}.${system}) config.transposition;
    flake = mapAttrs (name: _: mapAttrs (_: perSystem: perSystem.${name}) config.allSystems) config.transposition;
    _module.args = rec {
      getSystem = system: config.allSystems.${system} or (config.perSystem system);
      withSystem = system: f: f (getSystem system).allModuleArgs;
      # The arguments are looked up one by one: imports may not depend on the configuration.
      moduleWithSystem = module: { config, ... }:
        let args = (getSystem config._module.args.pkgs.stdenv.hostPlatform.system).allModuleArgs; in
        { imports = [ (module (mapAttrs (name: _: args.${name}) (lib.functionArgs module))) ]; };
    };
  };
}
