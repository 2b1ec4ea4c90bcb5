# Which nixpkgs a host is built with, and what is refused as one.
{
  lib,
  mkFleet,
  mkUser,
  nixpkgs,
  tinyNixpkgs,
  ...
}:
let
  x86 = "x86_64-linux";
in
{
  testAHostsNixpkgsIsUsed = {
    expr = lib.mapAttrs (_: host: host.nixos.config.mark) (mkFleet {
      nixpkgs.buildUsing = tinyNixpkgs "fleet";
      hosts.a.system = x86;
      hosts.b = {
        system = x86;
        nixpkgs.buildUsing = tinyNixpkgs "host";
      };
    }).hosts;
    expected = {
      a = "fleet";
      b = "host";
    };
  };

  testTheInputNixpkgsIsTheDefault = {
    expr = (mkFleet { hosts.a.system = x86; }).hosts.a.nixos.config.mark;
    expected = "default";
  };

  testOverlaysOfFleetAndHostApplyInThisOrder = {
    expr =
      let
        fleet = mkFleet {
          nixpkgs.overlays = [ (_: prev: { word = (prev.word or "") + "fleet "; }) ];
          nixos = { pkgs, ... }: { note.word = pkgs.word; };
          hosts.a = {
            system = x86;
            nixpkgs.overlays = [ (_: prev: { word = prev.word + "host"; }) ];
          };
          hosts.b.system = x86;
        };
      in
      lib.mapAttrs (_: host: host.nixos.config.note.word) fleet.hosts;
    expected = {
      a = "fleet host";
      b = "fleet ";
    };
  };

  testAPackageSetIsNoNixpkgsFlake = {
    expr =
      (mkFleet {
        hosts.a = {
          system = x86;
          nixpkgs.buildUsing = nixpkgs.legacyPackages.${x86};
        };
      }).hosts.a.record;
    expectedError = {
      type = "ThrownError";
      msg = "hosts\\.a\\.nixpkgs\\.buildUsing must be a nixpkgs flake, but it is a package set";
    };
  };

  testAPathIsNoNixpkgsFlake = {
    expr =
      (mkFleet {
        nixpkgs.buildUsing = ../fixtures;
        hosts.a.system = x86;
      }).hosts.a.record;
    expectedError = {
      type = "ThrownError";
      msg = "Give it the flake input itself: .* = inputs\\.nixpkgs;";
    };
  };

  testAFlakeWithoutNixpkgsNamesTheRemedy = {
    expr =
      (mkUser {
        without = [ "nixpkgs" ];
        fleetConfigurations.default.hosts.a.system = x86;
      }).fleetConfigurations.default.hosts.a.record;
    expectedError = {
      type = "ThrownError";
      msg = "Add the input, or set nixpkgs\\.buildUsing of the fleet to another one";
    };
  };

  testAPlatformThatDiffersFromTheEntryIsAnAssertion = {
    expr =
      (mkFleet {
        hosts.a = {
          system = x86;
          nixos.nixpkgs.system = lib.mkForce "aarch64-linux";
        };
      }).hosts.a.record;
    expectedError = {
      type = "ThrownError";
      msg = "hosts\\.a\\.system is \"x86_64-linux\", but the host's modules make a system for \"aarch64-linux\"";
    };
  };
}
