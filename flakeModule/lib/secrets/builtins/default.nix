# The generators of fleet, as functions of the packages that their programs are made from. docs/reference/options.md has their comments.
{ lib }:
pkgs:
let
  arguments = {
    inherit lib pkgs;
    make = import ../make.nix { inherit lib; };
    words = import ../words.nix { inherit lib; };
  };
in
import ./random.nix arguments
// import ./keys.nix arguments
// import ./certificates.nix arguments
// import ./people.nix arguments
// import ./scripts.nix arguments
