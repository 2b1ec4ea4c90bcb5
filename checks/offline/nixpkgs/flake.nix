{
  description = "Offline stand-in of nixpkgs: a test double with the same interface";

  outputs = { ... }:
    let
      lib = import ./lib // {
        nixosSystem = args: import ./nixos/lib/eval-config.nix ({ inherit lib; system = null; defaultPkgs = pkgsFor; } // args);
      };
      pkgsFor = system: import ./. { inherit system; };
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs lib.systems.flakeExposed pkgsFor;
      isStandIn = true;
    };
}
