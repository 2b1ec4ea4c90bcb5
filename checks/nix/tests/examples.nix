# The example flakes, with the stand-in's NixOS and, where a checkout is given, with the real one.
{
  lib,
  callFlake,
  flake-parts,
  fleetBeside,
  wholeNixpkgs,
  ...
}:
let
  example =
    nixpkgs: name:
    let
      flake = callFlake (../../../examples + "/${name}") {
        inherit nixpkgs flake-parts;
        fleet = fleetBeside nixpkgs;
      };
    in
    flake.fleetConfigurations.default;

  etc = host: file: host.nixos.config.environment.etc.${file}.text;

  # What must hold of the cluster with any NixOS.
  clusterTests = nixpkgs: {
    EvaluatesAllItsSystems = {
      expr = lib.mapAttrs (_: host: lib.hasSuffix ".drv" host.record.system.drvPath) (example nixpkgs "cluster").hosts;
      expected = {
        controlplane-1 = true;
        worker-1 = true;
        worker-2 = true;
      };
    };

    KnowsItsMembers = {
      expr = lib.mapAttrs (_: host: etc host "cluster/members") (example nixpkgs "cluster").hosts;
      expected = lib.genAttrs [
        "controlplane-1"
        "worker-1"
        "worker-2"
      ] (_: "10.77.0.11 controlplane-1\n10.77.0.12 worker-1\n10.77.0.13 worker-2\n");
    };

    HasRoles = {
      expr = lib.mapAttrs (_: host: etc host "cluster/role") (example nixpkgs "cluster").hosts;
      expected = {
        controlplane-1 = "controlplane\n";
        worker-1 = "worker\n";
        worker-2 = "worker\n";
      };
    };

    HostsAreNamedAndDiffer = {
      expr =
        let
          hosts = lib.attrValues (example nixpkgs "cluster").hosts;
        in
        {
          names = map (host: host.nixos.config.networking.hostName) hosts;
          different = lib.length (lib.unique (map (host: host.record.system.toplevel) hosts));
        };
      expected = {
        names = [
          "controlplane-1"
          "worker-1"
          "worker-2"
        ];
        different = 3;
      };
    };
  };

  interfaces = fleet: host: fleet.hosts.${host}.nixos.config.networking.wireguard.interfaces;

  wireguardTests = nixpkgs: {
    PeersAreAllOtherMembers = {
      expr = lib.mapAttrs (_: wg: map (peer: lib.head peer.allowedIPs) wg.peers) (
        interfaces (example nixpkgs "wireguard") "oslo"
      );
      expected = {
        wg-all = [
          "10.100.0.1/32"
          "10.100.0.3/32"
        ];
        wg-backup = [ "10.101.0.1/32" ];
      };
    };

    EachImportIsAMeshOfItsOwn = {
      expr = lib.mapAttrs (name: _: lib.attrNames (interfaces (example nixpkgs "wireguard") name)) {
        berlin = null;
        oslo = null;
        tokyo = null;
      };
      expected = {
        berlin = [
          "wg-all"
          "wg-backup"
        ];
        oslo = [
          "wg-all"
          "wg-backup"
        ];
        tokyo = [ "wg-all" ];
      };
    };

    ErrorsNameTheFileOfTheModule = {
      expr = lib.unique (
        map (d: baseNameOf d.file) (example nixpkgs "wireguard").options.hostDefaults.definitionsWithLocations
      );
      expected = [
        "mesh.nix"
        "flake.nix, via option fleetConfigurations.default"
      ];
    };

    EvaluatesItsSystem = {
      expr = lib.hasSuffix ".drv" (example nixpkgs "wireguard").hosts.berlin.record.system.drvPath;
      expected = true;
    };
  };

  templateTests = nixpkgs: {
    HasAPlan = {
      expr = (example nixpkgs "template").plan.hosts.host-1.deploy.address;
      expected = "192.0.2.1";
    };

    EvaluatesItsSystem = {
      expr = lib.hasSuffix ".drv" (example nixpkgs "template").hosts.host-1.record.system.drvPath;
      expected = true;
    };
  };

  named = prefix: lib.mapAttrs' (name: lib.nameValuePair "test${prefix}${name}");
in
lib.concatMapAttrs (
  name: nixpkgs:
  named "Cluster${name}" (clusterTests nixpkgs)
  // named "Wireguard${name}" (wireguardTests nixpkgs)
  // named "Template${name}" (templateTests nixpkgs)
) wholeNixpkgs
