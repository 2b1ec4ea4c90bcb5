{
  description = "A fleet of one host";

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
      # The systems that you deploy from.
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];

      imports = [ inputs.fleet.flakeModules.default ];

      # Deploy with: nix run .#deploy
      fleetConfigurations.default = {
        # NixOS configuration of every host.
        nixos = {
          services.openssh.enable = true;
        };

        hosts.host-1 = {
          system = "x86_64-linux";
          deploy.address = "192.0.2.1";
          nixos.imports = [ ./host-1.nix ];
        };
      };
    };
}
