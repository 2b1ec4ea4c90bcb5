/**
  The tests of the flake module: a set of { expr; expected | expectedError; }, as nix-unit reads them. `checks/nix/run` runs them with any nix.

  Type:   { libDir, flakePartsDir, nixpkgsDir } -> { <topic> = { <test> = Test } }
  Inputs:
    libDir         folder with nixpkgs' lib in it
    flakePartsDir  a checkout of flake-parts
    nixpkgsDir     a whole nixpkgs to evaluate the examples with, or null for the stand-in
*/
{
  libDir ? ../offline/nixpkgs,
  flakePartsDir ? ../offline/flake-parts,
  nixpkgsDir ? null,
}:
let
  flakes = import ./flakes.nix { inherit libDir flakePartsDir; };
  inherit (flakes) lib flake-parts callFleet;

  # Only evaluation: the lib that the module uses is the one under test, and NixOS brings its own.
  realNixpkgs = {
    _type = "flake";
    outPath = toString nixpkgsDir;
    lib = lib // {
      nixosSystem = import (nixpkgsDir + "/nixos/lib/eval-config.nix");
    };
    legacyPackages.x86_64-linux = import nixpkgsDir { system = "x86_64-linux"; };
  };

  standIn = flakes.callFlake ../offline/nixpkgs { };
  goBuilder = import ../../flakeModule/go-builder.nix { inherit lib; };

  tinyNixpkgs = import ./tiny-nixpkgs.nix { inherit lib; };
  nixpkgs = tinyNixpkgs "default";
  fleet = callFleet nixpkgs;

  /**
    A user's flake.

    Type:   { inputs ? { }, without ? [ ], ... } -> Flake
    Inputs: more inputs, the names of inputs that the flake does not have, and the rest of the flake-parts module
  */
  mkUser =
    {
      inputs ? { },
      without ? [ ],
      ...
    }@arguments:
    let
      allInputs =
        removeAttrs {
          inherit
            self
            nixpkgs
            flake-parts
            fleet
            ;
        } without
        // inputs;
      self =
        flake-parts.lib.mkFlake { inputs = allInputs; } {
          systems = [ "x86_64-linux" ];
          imports = [
            fleet.flakeModules.default
            (removeAttrs arguments [
              "inputs"
              "without"
            ])
          ];
        }
        // {
          _type = "flake";
          inputs = allInputs;
          outPath = "/user";
        };
    in
    self;

  context = flakes // {
    inherit
      nixpkgs
      fleet
      mkUser
      tinyNixpkgs
      ;

    # Whether a test can read what the evaluation has just put into the store: not in `nix flake check`, which may put nothing there
    # (--no-build), or may not read it (pure).
    canReadTheStore = builtins ? currentSystem;

    # What examples are evaluated with: the stand-in's NixOS and, where a checkout is given, the real one. By what the names of tests end in.
    wholeNixpkgs = {
      "" = standIn;
    }
    // lib.optionalAttrs (nixpkgsDir != null) { OnRealNixos = realNixpkgs; };

    /**
      fleet for the flake of a user who has this nixpkgs: fleet's own is another one where this has no Go that is new enough, as with an old NixOS.

      Type:   Flake -> Flake
    */
    fleetBeside =
      nixpkgs:
      if goBuilder nixpkgs.legacyPackages.x86_64-linux != null then callFleet nixpkgs else callFleet standIn;

    /**
      A user's flake with one fleet, and what it shows.

      Type:   Module -> FleetOutput
    */
    mkFleet = module: (mkUser { fleetConfigurations.default = module; }).fleetConfigurations.default;
  };
in
lib.mapAttrs' (
  file: _: lib.nameValuePair (lib.removeSuffix ".nix" file) (import (./tests + "/${file}") context)
) (builtins.readDir ./tests)
