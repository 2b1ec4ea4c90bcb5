{
  description = "NixOS cluster deployment: a flake-parts module and one static program";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    flake-parts = {
      url = "github:hercules-ci/flake-parts";
      inputs.nixpkgs-lib.follows = "nixpkgs";
    };
  };

  outputs =
    inputs@{
      self,
      nixpkgs,
      flake-parts,
      ...
    }:
    let
      inherit (nixpkgs) lib;
      names = import ./flakeModule/lib/names.nix { inherit lib; };
    in
    flake-parts.lib.mkFlake { inherit inputs; } {
      # Linux deploys; a Mac can build and push. What the nixpkgs in use does not have is left out.
      systems = lib.filter (system: nixpkgs.legacyPackages ? ${system}) [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];

      flake = {
        flakeModules.default = {
          _class = "flake";
          _file = "${self}/flake.nix#flakeModules.default";
          key = "${self}/flake.nix#flakeModules.default";
          imports = [ (import ./flakeModule { fleet = self; }) ];
        };

        templates.default = {
          path = ./examples/template;
          description = "A fleet of one host";
        };
      };

      perSystem =
        { system, ... }:
        let
          pkgs = nixpkgs.legacyPackages.${system};
          package = arguments: import ./flakeModule/package.nix ({ inherit lib pkgs; } // arguments);
          fleet-helper = package { };
        in
        {
          packages = {
            inherit fleet-helper;
            default = fleet-helper;
            # The name that people put into their dev shells.
            fleet = fleet-helper;
          }
          // lib.listToAttrs (
            map (
              target:
              lib.nameValuePair "fleet-helper-${target}" (
                if target == system then fleet-helper else package { inherit target; }
              )
            ) names.targetSystems
          );

          checks = import ./checks {
            inherit
              inputs
              lib
              pkgs
              self
              system
              ;
          };

          # What the nixpkgs in use does not have is left out here, too.
          devShells.default = pkgs.mkShell {
            packages = lib.concatMap (name: lib.optional (pkgs ? ${name}) pkgs.${name}) [
              "go"
              "gopls"
              "nixfmt-tree"
              "shellcheck"
            ];
          };

          formatter = pkgs.nixfmt-tree;
        };
    };
}
