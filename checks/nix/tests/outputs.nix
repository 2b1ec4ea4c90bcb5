# What the module adds to a user's flake.
{
  lib,
  canReadTheStore,
  fleet,
  mkUser,
  ...
}:
let
  x86 = "x86_64-linux";

  user = mkUser {
    fleetConfigurations.default.hosts.a.system = x86;
    fleetConfigurations.staging = {
      hosts.a.system = x86;
      hosts.b.system = "aarch64-linux";
    };
    fleetConfigurations.lab = {
      exportNixosConfigurations = false;
      flakeCheck = "fleet";
      hosts.c = {
        system = x86;
        nixos = throw "host modules of the lab";
      };
    };
  };

  program = name: user.apps.${x86}.${name}.program;

  # What the check wrote, which the tiny nixpkgs keeps beside the derivation.
  evaluation = name: builtins.fromJSON user.checks.${x86}."fleet-${name}-eval".text;
in
{
  testEveryFleetHasItsApps = {
    expr = lib.attrNames user.apps.${x86};
    expected = [
      "deploy"
      "deploy-lab"
      "deploy-staging"
      "fleet"
      "fleet-lab"
      "fleet-staging"
      "secrets"
      "secrets-lab"
      "secrets-staging"
    ];
  };

  testAppsAreProgramsInTheStore = {
    expr =
      lib.hasPrefix builtins.storeDir (program "deploy") && user.apps.${x86}.deploy.type == "app";
    expected = true;
  };

  testEveryFleetHasItsCheck = {
    expr = lib.attrNames user.checks.${x86};
    expected = [
      "fleet-default-eval"
      "fleet-default-secrets"
      "fleet-lab-eval"
      "fleet-lab-secrets"
      "fleet-staging-eval"
      "fleet-staging-secrets"
    ];
  };

  testACheckEvaluatesAllHosts = {
    expr = lib.mapAttrs (_: lib.attrNames) {
      default = (evaluation "default").records;
      staging = (evaluation "staging").records;
    };
    expected = {
      default = [ "a" ];
      staging = [
        "a"
        "b"
      ];
    };
  };

  testACheckOfTheFleetAloneLeavesHostModulesOut = {
    expr = {
      inherit (evaluation "lab") records;
      hosts = lib.attrNames (evaluation "lab").plan.hosts;
    };
    expected = {
      records = { };
      hosts = [ "c" ];
    };
  };

  testACheckBuildsNoHost = {
    expr = builtins.hasContext user.checks.${x86}.fleet-default-eval.text;
    expected = false;
  };

  testHostsAreNixosConfigurations = {
    expr = lib.attrNames user.nixosConfigurations;
    expected = [
      "a"
      "a-staging"
      "b-staging"
    ];
  };

  testANixosConfigurationIsTheHostsSystem = {
    expr =
      user.nixosConfigurations.b-staging.config.system.build.toplevel.outPath
      == user.fleetConfigurations.staging.hosts.b.record.system.toplevel;
    expected = true;
  };

  testTwoHostsOfOneNameThereAreToldOf = {
    expr =
      (mkUser {
        fleetConfigurations.default.hosts.a-staging.system = x86;
        fleetConfigurations.staging.hosts.a.system = x86;
      }).nixosConfigurations.a-staging.config;
    expectedError = {
      type = "ThrownError";
      msg = "nixosConfigurations\\.a-staging would be fleetConfigurations\\.default\\.hosts\\.a-staging and fleetConfigurations\\.staging\\.hosts\\.a\\.";
    };
  };

  testAnotherPackageCanBeCalledFleet = {
    expr =
      (mkUser {
        fleetConfigurations.default.hosts.a.system = x86;
        perSystem.packages.fleet = fleet.packages.${x86}.fleet-helper-riscv64-linux;
      }).packages.${x86}.fleet.drvPath;
    expected = fleet.packages.${x86}.fleet-helper-riscv64-linux.drvPath;
  };

  # A person has to decide which is meant.
  testAnotherAppCalledDeployIsAConflictWithBothPlaces = {
    expr =
      (mkUser {
        fleetConfigurations.default.hosts.a.system = x86;
        perSystem.apps.deploy.program = "/mine";
      }).apps.${x86}.deploy.program;
    expectedError = {
      type = "ThrownError";
      msg = "flakeModules\\.default, via option perSystem.*deploy";
    };
  };

  testTheFlakeModuleImportedTwiceCountsOnce = {
    expr = lib.attrNames (mkUser {
      imports = [
        fleet.flakeModules.default
        { imports = [ fleet.flakeModules.default ]; }
      ];
      fleetConfigurations.default.hosts.a.system = x86;
    }).nixosConfigurations;
    expected = [ "a" ];
  };

  testTheProgramIsThereForAllTargets = {
    expr = lib.attrNames user.packages.${x86};
    expected = [
      "fleet"
      "fleet-helper"
      "fleet-helper-aarch64-linux"
      "fleet-helper-armv6l-linux"
      "fleet-helper-armv7l-linux"
      "fleet-helper-riscv64-linux"
      "fleet-helper-x86_64-linux"
    ];
  };

  testThePlansHelpersArePackages = {
    expr = lib.all (helper: user.packages.${x86} ? ${helper.package}) (
      lib.attrValues user.fleetConfigurations.staging.plan.helpers
    );
    expected = true;
  };

  testTheOperatorsOwnTargetIsTheSamePackage = {
    expr =
      fleet.packages.${x86}.fleet-helper-x86_64-linux.drvPath == fleet.packages.${x86}.fleet.drvPath;
    expected = true;
  };

  testOtherTargetsAreBuiltOnTheOperatorsSystem = {
    expr = {
      inherit (fleet.packages.${x86}.fleet-helper-riscv64-linux) system;
      exports = fleet.packages.${x86}.fleet-helper-armv6l-linux.passthru.arguments.preBuild;
    };
    expected = {
      system = x86;
      exports = "export GOARCH=arm\nexport GOARM=6\nexport GOOS=linux\n";
    };
  };

  testTheVersionIsStamped = {
    expr = lib.elem "-X main.version=${lib.removeSuffix "\n" (builtins.readFile ../../../VERSION)}" fleet.packages.${x86}.fleet-helper.passthru.arguments.ldflags;
    expected = true;
  };

  testFleetModulesAreAnOutput = {
    expr =
      let
        publisher = mkUser { flake.fleetModules.greeting = { warnings = [ "hello" ]; }; };
        reader = mkUser {
          # Twice, and yet once: an exported module has a key.
          fleetConfigurations.default.imports = [
            publisher.fleetModules.greeting
            { imports = [ publisher.fleetModules.greeting ]; }
          ];
        };
      in
      {
        class = publisher.fleetModules.greeting._class;
        inherit (reader.fleetConfigurations.default.plan) warnings;
      };
    expected = {
      class = "fleet";
      warnings = [ "hello" ];
    };
  };

  testConfigAndOptionsAreShown = {
    expr = {
      address = user.fleetConfigurations.default.config.hosts.a.deploy.address;
      described = user.fleetConfigurations.default.options.nixos.description != "";
    };
    expected = {
      address = "a";
      described = true;
    };
  };

  testASystemThatFleetDoesNotHaveGetsNothing = {
    expr =
      (mkUser {
        systems = [ "i686-linux" ];
        fleetConfigurations.default.hosts.a.system = x86;
      }).apps.i686-linux;
    expected = { };
  };

  testTheReferenceOfOptionsIsTheOneInDocs = {
    expr =
      let
        inherit (user.fleetConfigurations) default;
      in
      import ../options-doc.nix { inherit lib; } default.options {
        inherit (default.hosts.a.nixos.options)
          fleet
          secretIdentities
          secretTemplates
          secrets
          ;
        system = { inherit (default.hosts.a.nixos.options.system) onlineActivationScripts; };
      };
    expected = builtins.readFile ../../../docs/reference/options.md;
  };
}
// lib.optionalAttrs canReadTheStore {
  testTheSourceHasNoTests = {
    expr =
      let
        src = fleet.packages.${x86}.fleet-helper.passthru.arguments.src;
        files =
          dir:
          lib.concatLists (
            lib.mapAttrsToList (
              name: type: if type == "directory" then files "${dir}/${name}" else [ name ]
            ) (builtins.readDir dir)
          );
      in
      {
        other = lib.subtractLists [
          "closure"
          "cmd"
          "evaluator"
          "go.mod"
          "go.sum"
          "push"
          "secretsgen"
        ] (lib.attrNames (builtins.readDir src));
        module = builtins.pathExists "${src}/go.mod";
        tests = lib.filter (lib.hasSuffix "_test.go") (files src);
        packagesOfTests = builtins.pathExists "${src}/push/transport/transporttest";
        embedded = builtins.pathExists "${src}/push/script/probe.sh";
      };
    expected = {
      other = [ ];
      module = true;
      tests = [ ];
      packagesOfTests = false;
      embedded = true;
    };
  };
}
