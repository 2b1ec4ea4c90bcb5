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
      fleetConfigurations = {
        default = import ./fleet.nix ./hosts.json;
      }
      // (if builtins.pathExists ./staging.json then { staging = import ./fleet.nix ./staging.json; } else { });
    };
}
