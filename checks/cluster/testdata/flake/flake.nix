{
  description = "Hosts that a test describes in hosts.json";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    flake-parts = {
      url = "github:hercules-ci/flake-parts";
      inputs.nixpkgs-lib.follows = "nixpkgs";
    };
    fleet = {
      url = "github:OWNER/fleet";
      inputs.nixpkgs.follows = "nixpkgs";
      inputs.flake-parts.follows = "flake-parts";
    };
  };

  outputs =
    inputs:
    inputs.flake-parts.lib.mkFlake { inherit inputs; } {
      systems = [ "x86_64-linux" ];
      imports = [ inputs.fleet.flakeModules.default ];
      fleetConfigurations.default =
        { lib, ... }:
        {
          hosts = lib.mapAttrs (_: host: {
            system = "x86_64-linux";
            tags = host.tags or [ ];
            deploy = host.deploy or { };
            nixos = import ./host.nix host;
          }) (builtins.fromJSON (builtins.readFile ./hosts.json));
        };
    };
}
