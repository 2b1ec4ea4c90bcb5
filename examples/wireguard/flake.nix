{
  description = "Two WireGuard meshes from one fleet module";

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

      fleetConfigurations.default =
        { lib, ... }:
        let
          # As `import ./mesh.nix` would, but errors name that file.
          mesh = inputs.flake-parts.lib.importApply ./mesh.nix;
        in
        {
          imports = [
            # The same module twice: each import is a mesh of its own.
            (mesh {
              interface = "wg-all";
              port = 51820;
              members = [
                "berlin"
                "oslo"
                "tokyo"
              ];
            })
            (mesh {
              interface = "wg-backup";
              port = 51821;
              members = [
                "berlin"
                "oslo"
              ];
            })
          ];

          nixos = ./common.nix;
          hostDefaults.system = lib.mkDefault "x86_64-linux";

          hosts = {
            berlin = {
              network.externalIps = [ "192.0.2.10" ];
              mesh.wg-all = {
                address = "10.100.0.1";
                publicKey = "/iZao4MPGiw2lfYbe80EaPTl1bu9g0Hhu7tN3dDd9Jg=";
              };
              mesh.wg-backup = {
                address = "10.101.0.1";
                publicKey = "6qIlT2eS7/Pzvq91jX/eBy7uO16Zi89LCAZo9wBsV2g=";
              };
            };

            oslo = {
              network.externalIps = [ "192.0.2.20" ];
              mesh.wg-all = {
                address = "10.100.0.2";
                publicKey = "SEyO9SimjYLnGRC9pZXa76Jc6shx9IX88Zxv/aR/M08=";
              };
              mesh.wg-backup = {
                address = "10.101.0.2";
                publicKey = "7w9VkyGX0Qq8fcE6r/f2Jy6wQj16VtHlCcY74vOwxNI=";
              };
            };

            # Behind NAT: it calls the others, and cannot be called.
            tokyo.mesh.wg-all = {
              address = "10.100.0.3";
              publicKey = "Zsg7UEtohF3ieu+wfVRSZPKVFPw0DWIDFyzW2M48mk4=";
            };
          };
        };
    };
}
