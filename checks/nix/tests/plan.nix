# The plan: what it holds, what it does not look at, and the golden file that the program's tests read too.
{
  lib,
  mkFleet,
  mkUser,
  ...
}:
let
  golden = import ../golden-fleet.nix;
  minimal = mkFleet { hosts.a.system = "x86_64-linux"; };
in
{
  testGoldenFileIsWhatTheModuleRenders = {
    expr = (mkFleet golden).plan;
    expected = builtins.fromJSON (builtins.readFile ../../golden/plan.json);
  };

  testDefaultsOfAHost = {
    expr = minimal.plan.hosts.a;
    expected = {
      system = "x86_64-linux";
      tags = [
        "all"
        "system/x86_64-linux"
      ];
      network = {
        internalIps = [ ];
        externalIps = [ ];
      };
      deploy = {
        address = "a";
        port = null;
        user = null;
        jumpHosts = null;
        hostKeys = [ ];
        transport = "native";
        elevation = "auto";
        buildOn = "operator";
        relay = null;
        relayPort = 7171;
        substituteOnDestination = false;
        specialisation = null;
        guard = {
          enable = true;
          switchTimeout = 900;
          rollbackTimeout = 600;
          confirmTimeout = 180;
          bootConfirm = 600;
          settle = 10;
          soak = 0;
          reboot = "if-safe";
          ignoreUnits = [ ];
          skipChecks = [ ];
          vantages = [ ];
        };
        health = { };
        drain = [ ];
        undrain = [ ];
      };
      record = [
        "fleetConfigurations"
        "default"
        "hosts"
        "a"
        "record"
      ];
    };
  };

  testHelpersAreThoseOfTheSystemsInUse = {
    expr =
      (mkFleet {
        hosts.a.system = "x86_64-linux";
        hosts.b.system = "riscv64-linux";
        hosts.c.system = "x86_64-linux";
      }).plan.helpers;
    expected = {
      riscv64-linux.package = "fleet-helper-riscv64-linux";
      x86_64-linux.package = "fleet-helper-x86_64-linux";
    };
  };

  testReadingThePlanForcesNoHostsModules = {
    expr =
      (mkFleet {
        nixos = throw "modules of all hosts";
        hosts.a = {
          system = "x86_64-linux";
          nixos = throw "modules of a";
        };
        hosts.b = {
          system = "x86_64-linux";
          nixos = _: throw "configuration of b";
        };
      }).plan.hosts.a.deploy.address;
    expected = "a";
  };

  testReadingThePlanForcesNoNixpkgs = {
    expr =
      builtins.attrNames
        (mkUser {
          inputs.nixpkgs = throw "nixpkgs";
          fleetConfigurations.default.hosts.a.system = "x86_64-linux";
        }).fleetConfigurations.default.plan.hosts;
    expected = [ "a" ];
  };

  testTagsAreSortedAndUnique = {
    expr =
      (mkFleet {
        hosts.a = {
          system = "aarch64-linux";
          tags = [
            "web"
            "all"
            "canary"
            "web"
          ];
        };
      }).plan.hosts.a.tags;
    expected = [
      "all"
      "canary"
      "system/aarch64-linux"
      "web"
    ];
  };

  testWarningsArePartOfThePlan = {
    expr =
      (mkFleet {
        warnings = [ "old" ];
        hosts.a.system = "x86_64-linux";
      }).plan.warnings;
    expected = [ "old" ];
  };

  testAFleetWithoutHostsHasAPlan = {
    expr = (mkFleet { }).plan;
    expected = {
      formatVersion = 1;
      fleet = "default";
      helpers = { };
      hosts = { };
      sharedSecrets = { };
      warnings = [ ];
    };
  };

  testRecordsOfAnotherFleetSayItsName = {
    expr =
      (mkUser { fleetConfigurations.staging.hosts.a.system = "x86_64-linux"; })
      .fleetConfigurations.staging.plan.hosts.a.record;
    expected = [
      "fleetConfigurations"
      "staging"
      "hosts"
      "a"
      "record"
    ];
  };

  testPlanIsPlainData = {
    expr = builtins.hasContext (builtins.toJSON minimal.plan) || lib.isFunction minimal.plan;
    expected = false;
  };
}
