{
  description = "Three hosts: a control plane and two workers";

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

      fleetConfigurations.default = {
        imports = [
          ./hosts.nix
          # One module that configures all hosts, and knows who is who from their tags.
          ./cluster.nix
        ];

        # NixOS configuration of every host.
        nixos = ./common.nix;
      };
    };
}
