/**
  What `nix flake check` runs for fleet's own flake.

  The tests of error texts are not among them, since an evaluation cannot read the error of another, nor those that read what they have put
  into the store; `checks/nix/run` runs those too. Nor
  are the tests of the program: `make check` runs them.

  Type:   { inputs, lib, pkgs, self, system } -> { <check> = Derivation }
*/
{
  inputs,
  lib,
  pkgs,
  self,
  system,
}:
let
  report = import ./nix/report.nix {
    libDir = inputs.nixpkgs.outPath;
    flakePartsDir = inputs.flake-parts.outPath;
    # The stand-in is tested with the examples in any case.
    nixpkgsDir = if inputs.nixpkgs.isStandIn or false then "" else inputs.nixpkgs.outPath;
  };

  failures = lib.filter (line: line != "" && !lib.hasPrefix "ok " line) (
    lib.splitString "\n" report.values
  );
in
{
  inherit (self.packages.${system}) fleet-helper;

  nix-tests =
    if failures == [ ] then
      # What the tests are about is not needed to say that they passed.
      pkgs.writeText "nix-tests" (builtins.unsafeDiscardStringContext report.values)
    else
      throw "evaluation tests failed; run checks/nix/run to see more\n${lib.concatStringsSep "\n" failures}";
}
