{
  description = "Certificates of a Kubernetes cluster, signed by a key that never leaves its HSM";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    flake-parts.url = "github:hercules-ci/flake-parts";
    flake-parts.inputs.nixpkgs-lib.follows = "nixpkgs";
    fleet.url = "github:OWNER/fleet";
    fleet.inputs.nixpkgs.follows = "nixpkgs";
    fleet.inputs.flake-parts.follows = "flake-parts";
  };

  outputs =
    inputs:
    inputs.flake-parts.lib.mkFlake { inherit inputs; } {
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];

      imports = [ inputs.fleet.flakeModules.default ];

      # The HSM has to be there before it can sign:
      #   nix run .#deploy -- --on hsm-1
      #   nix run .#deploy
      fleetConfigurations.default = {
        imports = [
          ./hosts.nix
          # How certificates are made ...
          ./generators.nix
          # ... and which ones there are, for whom.
          ./certificates.nix
        ];

        nixos = ./common.nix;
      };
    };
}
