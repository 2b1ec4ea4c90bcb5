# A flake whose outputs must be the same with the stand-in of flake-parts and with flake-parts, over either lib. See flake-parts.golden.json.
{ lib, flakeParts }:
let
  flake-parts = (import (flakeParts + "/flake.nix")).outputs { nixpkgs-lib = { inherit lib; }; self = flake-parts; };
  package = name: { type = "derivation"; inherit name; outPath = "/nix/store/x-${name}"; drvPath = "/nix/store/x-${name}.drv"; meta.mainProgram = name; };
  flakeOf = outputs: outputs // { _type = "flake"; inputs = { }; inherit outputs; sourceInfo = { }; outPath = "/nix/store/x-source"; };
  inputs = {
    self = flakeOf result // { inherit inputs; };
    nixpkgs = flakeOf { legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: { inherit system; hello = package "hello-${system}"; }); };
    other = flakeOf { packages.x86_64-linux.q = package "q"; packages.aarch64-linux.q = package "q-arm"; };
    plain = { outPath = "/nix/store/x-plain"; };
  };
  mk = modules: flake-parts.lib.mkFlake { inherit inputs; } { systems = [ "x86_64-linux" "aarch64-linux" ]; imports = modules; };
  fails = value: !(builtins.tryEval (builtins.deepSeq value null)).success;
  result = mk [
    flake-parts.flakeModules.flakeModules
    (flake-parts.lib.importApply ./flake-parts-apply.nix { word = "applied"; })
    ({ flake-parts-lib, lib, ... }: {
      imports = [
        (flake-parts-lib.mkTransposedPerSystemModule {
          name = "bundles"; file = ./flake-parts.nix; option = lib.mkOption { type = lib.types.lazyAttrsOf lib.types.str; default = { }; };
        })
      ];
      options.perSystem = flake-parts-lib.mkPerSystemOption ({ config, ... }: { options.shout = lib.mkOption { type = lib.types.str; default = "hey"; }; config.bundles.shout = config.shout + "!"; });
      options.flake = flake-parts-lib.mkSubmoduleOptions { custom = lib.mkOption { type = lib.types.listOf lib.types.int; default = [ ]; }; };
    })
    { perSystem.shout = lib.mkForce "ho"; flake.custom = [ 1 ]; }
    ({ config, inputs, self, withSystem, getSystem, moduleWithSystem, ... }: {
      perSystem = { config, pkgs, system, inputs', self', lib, ... }: {
        packages = { default = pkgs.hello; again = self'.packages.default; fromOther = inputs'.other.packages.q; };
        apps.run = { program = "/bin/${system}"; meta.description = "d"; };
        apps.pkg.program = pkgs.hello;
        apps.path.program = "/nix/store/00000000000000000000000000000000-program";
        checks.one = pkgs.hello;
        devShells.default = config.packages.default;
        formatter = pkgs.hello;
        legacyPackages.deep.er = 1;
      };
      flake = {
        free.form = 1;
        custom = [ 2 ];
        given = withSystem "x86_64-linux" ({ config, system, pkgs, ... }: [ system pkgs.system config.packages.default.name ]);
        get = (getSystem "aarch64-linux").packages.default.name;
        plainFails = withSystem "x86_64-linux" ({ inputs', ... }: fails inputs'.plain);
        nixosModules.m = { a = 1; };
        flakeModules.default = { };
        overlays.default = final: prev: { x = 1; };
        nixosConfigurations.host = { config.name = "host"; };
        moduleWithSystem = (lib.evalModules { modules = [
          (moduleWithSystem ({ self', system, ... }: { lib, ... }: { options.p = lib.mkOption { default = "${self'.packages.default.name}/${system}"; }; }))
          { _module.args.pkgs = { stdenv.hostPlatform.system = "aarch64-linux"; }; }
        ]; }).config.p;
      };
    })
  ];
  names = lib.mapAttrs (_: lib.mapAttrs (_: p: p.name));
in
{
  outputs = builtins.attrNames (removeAttrs result [ "debug" "allSystems" "currentSystem" ]);
  packages = names result.packages;
  checks = names result.checks;
  devShells = names result.devShells;
  formatter = lib.mapAttrs (_: p: p.name) result.formatter;
  inherit (result) apps legacyPackages free custom bundles plainFails get given moduleWithSystem applied;

  nixosModules = lib.mapAttrs (_: m: { inherit (m) _class; imports = builtins.length m.imports; file = lib.hasSuffix "#nixosModules.m" m._file; }) result.nixosModules;
  flakeModules = builtins.attrNames result.flakeModules.default;
  overlay = (result.overlays.default { } { }).x;
  configuration = result.nixosConfigurations.host.config.name;
  inputsAreNeeded = fails (flake-parts.lib.mkFlake { } { });
  duplicate = fails (mk [ { flake.a = 1; } { flake.a = 2; } ]).a;
  undeclared = fails (mk [ { nope = 1; } ]);
  undeclaredPerSystem = fails (mk [ { perSystem.nope = 1; } ]).packages.x86_64-linux;
  wrongClass = fails (mk [ { _class = "nixos"; } ]);
  evalFlakeModule = builtins.attrNames (flake-parts.lib.evalFlakeModule { inherit inputs; } { config.systems = [ ]; options.x = lib.mkOption { default = 1; }; }).config.flake.packages;
  noFormatter = (mk [ { } ]).formatter or { };
  emptyOutputs = builtins.attrNames (removeAttrs (mk [ { } ]) [ "debug" "allSystems" "currentSystem" "formatter" ]);
  importedTwice = (mk [ { imports = [ result.flakeModules.default result.flakeModules.default ]; flake.a = 1; } ]).a;
}
