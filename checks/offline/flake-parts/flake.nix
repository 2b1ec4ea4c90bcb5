{
  description = "Offline stand-in of flake-parts: a test double with the same interface";

  # As with the real one, let this input follow your own nixpkgs.
  inputs.nixpkgs-lib.url = "path:../nixpkgs";

  outputs = { nixpkgs-lib, ... }: {
    lib = import ./lib.nix { inherit (nixpkgs-lib) lib; };
    flakeModules.flakeModules = ./extras/flakeModules.nix;
    isStandIn = true;
  };
}
