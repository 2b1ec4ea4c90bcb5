{
  description = "A GitLab host whose secrets nobody but the host can read";

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

      # Deploy with: nix run .#deploy
      # It makes what is missing first. Then commit what it wrote below fleet-state.
      fleetConfigurations.default.hosts.gitlab = {
        system = "x86_64-linux";
        deploy.address = "10.77.0.11";
        nixos.imports = [
          ./host.nix
          ./gitlab.nix
        ];
      };
    };
}
