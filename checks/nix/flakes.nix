/**
  Flakes without nix's flake machinery: their outputs are called with inputs that a test chooses. So the same tests run on any version of nix, and
  against checkouts that are no flakes of their own.

  Type:   { libDir, flakePartsDir } -> { lib, flake-parts, callFlake, callFlakeText, callFleet }
  Inputs:
    libDir         folder with nixpkgs' lib in it
    flakePartsDir  a checkout of flake-parts
*/
{ libDir, flakePartsDir }:
let
  lib = import (libDir + "/lib");

  /**
    What nix makes of a folder with a flake.nix.

    Type:   Path -> { <name> = Flake } -> Flake
  */
  callFlake = dir: callOutputs dir (import (dir + "/flake.nix"));

  /**
    What nix makes of a flake.nix that is a text.

    Type:   String -> { <name> = Flake } -> Flake
  */
  callFlakeText =
    text: callOutputs "/flake-of-a-text" (import (builtins.toFile "flake.nix" text));

  callOutputs =
    dir: flake: inputs:
    let
      outputs = flake.outputs (inputs // { inherit self; });
      self = outputs // {
        inherit inputs outputs;
        _type = "flake";
        outPath = toString dir;
        sourceInfo.outPath = toString dir;
      };
    in
    self;

  flake-parts = callFlake flakePartsDir { nixpkgs-lib = { inherit lib; }; };
in
{
  inherit
    lib
    flake-parts
    callFlake
    callFlakeText
    ;

  /**
    This repository's flake, with a nixpkgs of choice.

    Type:   Flake -> Flake
  */
  callFleet = nixpkgs: callFlake ../.. { inherit nixpkgs flake-parts; };
}
