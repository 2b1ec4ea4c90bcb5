# The functions of flake-parts that flakes call.
{ lib }:
let
  inherit (lib) mkOption types;

  # A module type whose value is the list of the modules: modules that declare `perSystem` again add theirs to it.
  moduleList = modules: lib.mkOptionType {
    name = "deferredModule"; description = "module";
    check = x: builtins.isAttrs x || lib.isFunction x || types.path.check x;
    merge = loc: defs: modules ++ map (d: lib.setDefaultModuleLocation "${d.file}, via option ${lib.showOption loc}" d.value) defs;
    inherit (types.submoduleWith { inherit modules; }) getSubOptions;
    getSubModules = modules;
    substSubModules = moduleList;
    functor = { name = "deferredModuleWith"; wrapped = null; payload = modules; type = moduleList; binOp = a: b: a ++ b; };
  };

  usage = "For example:\n\n    outputs = inputs@{ flake-parts, ... }:\n      flake-parts.lib.mkFlake { inherit inputs; } { /* module */ };\n\nTo avoid an infinite recursion, pass neither `self.inputs` nor `inherit (self) inputs`.";

  flake-parts-lib = rec {
    evalFlakeModule = args@{ inputs ? self.inputs, specialArgs ? { }, self ? inputs.self or (throw "When invoking flake-parts, you must pass all the flake output arguments,\nand not just `self.inputs`.\n\n${usage}"), moduleLocation ? "${self.outPath}/flake.nix" }:
      module:
      let
        written = builtins.unsafeGetAttrPos "inputs" args;
        location = args.moduleLocation or (if written != null then written.file else "<mkFlake argument>");
      in
      lib.throwIf (!args ? self && !args ? inputs) "When invoking flake-parts, you must pass in the flake output arguments.\n\n${usage}"
        (lib.evalModules {
          class = "flake";
          specialArgs = { inherit self inputs moduleLocation flake-parts-lib; } // specialArgs;
          modules = [ ./modules/core.nix ./modules/outputs.nix (lib.setDefaultModuleLocation location module) ];
        });
    mkFlake = args: module: (evalFlakeModule args module).config.processedFlake;

    importApply = file: args: lib.setDefaultModuleLocation file (import file args);
    mkSubmoduleOptions = options: mkOption { type = types.submoduleWith { modules = [ { inherit options; } ]; }; };
    mkPerSystemType = module: moduleList [ module ];
    mkPerSystemOption = module: mkOption { type = mkPerSystemType module; };
    mkDeferredModuleType = mkPerSystemType;
    mkDeferredModuleOption = mkPerSystemOption;
    mkAliasOptionModule = lib.mkAliasOptionModule;

    mkTransposedPerSystemModule = { name, option, file }: {
      _file = file;
      options.flake.${name} = mkOption { type = types.lazyAttrsOf option.type; default = { }; description = "What perSystem.${name} says, by system."; };
      options.perSystem = mkPerSystemOption { _file = file; options.${name} = option; };
      config.transposition.${name} = { };
    };
  };
in
flake-parts-lib
