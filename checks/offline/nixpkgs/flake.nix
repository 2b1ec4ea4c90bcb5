{
  description = "Offline stand-in of nixpkgs: a test double with the same interface";

  # The folder with bin/fleet-helper and VERSION that `make build` fills; see helper-missing/README.
  inputs.helper = {
    url = "path:./helper-missing";
    flake = false;
  };

  outputs = { self, helper }:
    let
      lib = import ./lib // {
        nixosSystem = args: import ./nixos/lib/eval-config.nix ({ inherit lib; system = null; defaultPkgs = pkgsFor; } // args);
      };
      pkgsFor = system: import ./. { inherit system helper; };
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs lib.systems.flakeExposed pkgsFor;
      isStandIn = true;
    };
}
