# How hosts are guarded: what is refused of what a fleet says, and what a host's own system has of it.
{
  lib,
  fleetBeside,
  flake-parts,
  mkFleet,
  wholeNixpkgs,
  ...
}:
let
  x86 = "x86_64-linux";

  hostWith = module: {
    hosts.a = {
      imports = [ module ];
      system = x86;
    };
    hosts.b.system = x86;
  };

  onA = nixos: (mkFleet (hostWith { inherit nixos; })).hosts.a;
  configOf = nixos: (onA nixos).nixos.config;

  error = msg: expr: {
    inherit expr;
    expectedError = {
      type = "ThrownError";
      inherit msg;
    };
  };
  refused = msg: deploy: error msg (mkFleet (hostWith { inherit deploy; })).plan;
  refusedOnA = msg: nixos: error msg (onA nixos).record.system;

  deployOf = deploy: (mkFleet (hostWith { inherit deploy; })).plan.hosts.a.deploy;

  # A string that names something in the store.
  inStore = "${derivation {
    name = "probe";
    system = x86;
    builder = "/bin/sh";
  }}/bin/probe";

  bootGuard = config: config.systemd.services.fleet-boot-guard;
  parameters = nixos: (configOf nixos).boot.kernelParams;

  # One host with all of it, in a NixOS that is whole.
  wholeHost =
    nixpkgs:
    let
      inputs = {
        inherit nixpkgs flake-parts self;
        fleet = fleetBeside nixpkgs;
      };
      self = {
        _type = "flake";
        inherit inputs;
        outPath = "/user";
      };
    in
    (flake-parts.lib.mkFlake { inherit inputs; } {
      systems = [ x86 ];
      imports = [ inputs.fleet.flakeModules.default ];
      fleetConfigurations.default.hosts.a = {
        system = x86;
        nixos = {
          fileSystems."/" = {
            device = "/dev/disk/by-label/root";
            fsType = "ext4";
          };
          boot.loader.grub.device = "nodev";
          boot.loader.systemd-boot.enable = true;
          services.openssh.enable = true;
          networking.networkmanager.enable = true;
          fleet.guard = {
            panicTimeout = 10;
            panicOnFail = true;
            watchdog.runtime = 30;
          };
          fleet.health.ssh.tcp = "localhost:22";
          system.onlineActivationScripts.tell = {
            deps = [ "users" ];
            text = "echo deployed";
          };
          systemd.services.after-deployment = {
            wantedBy = [ "online-activation.target" ];
            script = "true";
            serviceConfig.Type = "oneshot";
          };
        };
      };
    }).fleetConfigurations.default.hosts.a;

  # The lines of a unit's section.
  section =
    name: text:
    lib.splitString "\n" (
      lib.head (lib.splitString "\n[" (lib.last (lib.splitString "[${name}]\n" "\n${text}")))
    );

  wholeTests =
    nixpkgs:
    let
      host = wholeHost nixpkgs;
      inherit (host.nixos) config;
      text = unit: builtins.unsafeDiscardStringContext config.systemd.units.${unit}.text;
      has = unit: name: lines: lib.subtractLists (section name (text unit)) lines;
    in
    {
      AHostWithAllOfItEvaluates = {
        expr = lib.hasSuffix ".drv" host.record.system.drvPath;
        expected = true;
      };

      # switch-to-configuration looks for each of these in one section, and nowhere else.
      WhatKeepsTheBootGuardRunningIsWhereItIsLookedFor = {
        expr =
          has "fleet-boot-guard.service" "Unit" [
            "DefaultDependencies=false"
            "IgnoreOnIsolate=true"
            "RefuseManualStop=true"
            "RequiresMountsFor=/nix/var/fleet"
            "X-StopOnRemoval=false"
          ]
          ++ has "fleet-boot-guard.service" "Service" [
            "Type=notify"
            "X-RestartIfChanged=false"
            "X-StopIfChanged=false"
          ];
        expected = [ ];
      };

      TheTargetOfADeploymentIsNotStartedByASwitch = {
        expr = has "online-activation.target" "Unit" [
          "X-OnlyManualStart=true"
          "StopWhenUnneeded=true"
        ];
        expected = [ ];
      };

      NetworkManagerIsLeftAlone = {
        expr = has "NetworkManager.service" "Service" [ "X-RestartIfChanged=false" ];
        expected = [ ];
      };

      PanicsReboot = {
        expr = lib.subtractLists config.boot.kernelParams [
          "panic=10"
          "boot.panic_on_fail"
        ];
        expected = [ ];
      };

      TheWatchdogIsSet = {
        expr = config.systemd.settings.Manager.RuntimeWatchdogSec or config.systemd.watchdog.runtimeTime;
        expected = "30s";
      };
    }
    // lib.optionalAttrs (!nixpkgs ? isStandIn) {
      SshdLeavesItsConnectionsAlone = {
        expr = has "sshd.service" "Service" [
          "KillMode=process"
          "X-StopIfChanged=false"
        ];
        expected = [ ];
      };

      OnlineScriptsArePartOfTheActivationScript = {
        expr =
          let
            script = builtins.unsafeDiscardStringContext config.system.activationScripts.script;
            upTo = word: lib.stringLength (lib.head (lib.splitString word script));
          in
          upTo "echo 'online activation" < upTo "\necho deployed\n"
          && upTo "#### Activation script snippet users:" < upTo "\necho deployed\n"
          && upTo "\necho deployed\n" < lib.stringLength script;
        expected = true;
      };
    };

  online = text: (configOf { system.onlineActivationScripts.monmap = text; }).system.activationScripts;
in
{
  # What a plan says.
  testTimesOfAGuardReachThePlan = {
    expr =
      (deployOf {
        guard = {
          soak = 30;
          reboot = "never";
        };
      }).guard;
    expected = {
      enable = true;
      switchTimeout = 900;
      rollbackTimeout = 600;
      confirmTimeout = 180;
      bootConfirm = 600;
      settle = 10;
      soak = 30;
      reboot = "never";
      ignoreUnits = [ ];
      skipChecks = [ ];
      vantages = [ ];
    };
  };

  testHostDefaultsGuardEveryHost = {
    expr = lib.mapAttrs (_: host: host.deploy.guard.soak) (mkFleet {
      hostDefaults = { lib, ... }: { deploy.guard.soak = lib.mkDefault 60; };
      hosts.a.system = x86;
      hosts.b = {
        system = x86;
        deploy.guard.soak = 0;
      };
    }).plan.hosts;
    expected = {
      a = 60;
      b = 0;
    };
  };

  testAHealthCheckOfThePlan = {
    expr = (deployOf { health.site.http.url = "http://[2001:db8::1]:8080/x?y"; }).health;
    expected.site = {
      command = null;
      tcp = null;
      unit = null;
      http = {
        url = "http://[2001:db8::1]:8080/x?y";
        status = null;
      };
      timeout = 30;
      interval = 2;
      from = "host";
    };
  };

  testATimeThatIsTooShort = refused "deploy\\.guard\\.confirmTimeout.* is not of type .seconds, from 5 to 86400" {
    guard.confirmTimeout = 4;
  };

  testATimeThatIsNoNumber = refused "deploy\\.guard\\.soak.* is not of type .seconds, from 0 to 86400" {
    guard.soak = "30s";
  };

  testAnUnknownRebootPolicy = refused "deploy\\.guard\\.reboot.* is not of type" { guard.reboot = "sometimes"; };

  testAUnitPatternIsNoPath = refused "deploy\\.guard\\.ignoreUnits.* is not of type .*name of a systemd unit, in which" {
    guard.ignoreUnits = [ "/etc/x.service" ];
  };

  testAVantageThatIsNoHost = refused "hosts\\.a\\.deploy\\.guard\\.vantages has \"c\", and the fleet has no host of that name" {
    guard.vantages = [ "c" ];
  };

  testAVantageThatIsTheHostItself = refused "hosts\\.a\\.deploy\\.guard\\.vantages has \"a\", which is the host itself" {
    guard.vantages = [
      "b"
      "a"
    ];
  };

  testAVantageThatIsAHost = {
    expr = (deployOf { guard.vantages = [ "b" ]; }).guard.vantages;
    expected = [ "b" ];
  };

  # Health checks that are none.
  testACheckOfNothing = refused "hosts\\.a\\.deploy\\.health\\.x must have exactly one of command, http, tcp, unit, and has none" {
    health.x = { };
  };

  testACheckOfAnEmptyCommand = refused "health\\.x must have exactly one of .*, and has none" {
    health.x.command = [ ];
  };

  testACheckOfTwoThings = refused "health\\.x must have exactly one of .*, and has command and unit" {
    health.x = {
      unit = "a.service";
      command = [ "true" ];
    };
  };

  testACheckFromNobody = refused "hosts\\.a\\.deploy\\.health\\.x is looked at from \"c\", and the fleet has no host of that name" {
    health.x = {
      tcp = "a:80";
      from = "c";
    };
  };

  testACheckFromTheHostByItsName = refused "health\\.x is looked at from the host itself, which is called \"host\"" {
    health.x = {
      tcp = "a:80";
      from = "a";
    };
  };

  testAUnitSeenFromTheOperator = refused "health\\.x looks at a unit, which the machine that deploys cannot" {
    health.x = {
      unit = "a.service";
      from = "operator";
    };
  };

  testACheckWithABadName = refused "hosts\\.a\\.deploy\\.health\\.\"a b\" has a name that is none" {
    health."a b".tcp = "a:80";
  };

  testACheckWithALongName = refused "health\\.x{101} has a name that is none" {
    health.${lib.concatStrings (lib.genList (_: "x") 101)}.tcp = "a:80";
  };

  testTooManyChecks = refused "hosts\\.a\\.deploy\\.health has 65 checks, and a host can have 64" {
    health = lib.genAttrs (map (n: "x${toString n}") (lib.range 1 65)) (_: { unit = "a.service"; });
  };

  testAPortThatIsNone = refused "health\\.x\\.tcp.* is not of type .*HOST:PORT" { health.x.tcp = "a:65536"; };

  testACommandWithoutAProgram = refused "health\\.x has a command without a program" {
    health.x.command = [
      ""
      "-a"
    ];
  };

  testAnAddressWithoutAPort = refused "health\\.x\\.tcp.* is not of type .*HOST:PORT" { health.x.tcp = "a"; };

  testAUrlOfAnotherKind = refused "health\\.x\\.http\\.url.* is not of type .*URL that begins with http" {
    health.x.http.url = "ftp://a/b";
  };

  testAUnitWithoutItsType = refused "health\\.x\\.unit.* is not of type .*with its type, as" {
    health.x.unit = "nginx";
  };

  # All that is wrong with all checks is said at once.
  testFaultsOfChecksAreToldTogether = refused "2 checks failed" {
    health.x = { };
    guard.vantages = [ "c" ];
  };

  # A plan is no part of a host's system, so what it names in the store is not on the host.
  testAStorePathInACheck = refused "hosts\\.a\\.deploy\\.health\\.x\\.command names a store path" {
    health.x.command = [ inStore ];
  };

  testAStorePathInAHook = refused "hosts\\.a\\.deploy\\.drain names a store path" { drain = [ inStore ]; };

  # fleet.health
  testChecksOfAHostReachItsRecordAsPlainData = {
    expr =
      let
        inherit (onA { fleet.health.x.command = [ inStore ]; }) record;
      in
      {
        inherit (record.specs.health.x) command http from;
        context = builtins.hasContext (builtins.toJSON record.specs);
      };
    expected = {
      command = [ (builtins.unsafeDiscardStringContext inStore) ];
      http = null;
      from = "host";
      context = false;
    };
  };

  testChecksOfAHostDoNotNeedItsSystem = {
    expr =
      (onA {
        fleet.health.x.unit = "a.service";
        assertions = throw "the system was evaluated";
      }).record.specs.health.x.unit;
    expected = "a.service";
  };

  testChecksOfAHostAreInItsSystem = {
    expr =
      let
        inherit
          ((configOf {
            fleet.health = {
              x = {
                command = [ inStore ];
                timeout = 60;
              };
              y.http.url = "http://localhost";
            };
          }).environment.etc."fleet/health.json"
          )
          text
          ;
      in
      {
        checks = builtins.fromJSON (builtins.unsafeDiscardStringContext text);
        programs = builtins.hasContext text;
      };
    expected = {
      programs = true;
      checks = {
        x = {
          command = [ (builtins.unsafeDiscardStringContext inStore) ];
          timeoutSeconds = 60;
          intervalSeconds = 2;
          from = "host";
        };
        y = {
          http.url = "http://localhost";
          timeoutSeconds = 30;
          intervalSeconds = 2;
          from = "host";
        };
      };
    };
  };

  testGoldenFileOfChecksIsWhatASystemHas = {
    expr =
      let
        fleet = mkFleet (import ../golden-fleet.nix);
      in
      builtins.fromJSON fleet.hosts.web-1.nixos.config.environment.etc."fleet/health.json".text;
    expected = builtins.fromJSON (builtins.readFile ../../golden/health.json);
  };

  testAHostWithoutChecksHasNoFileOfThem = {
    expr = (configOf { }).environment.etc;
    expected = { };
  };

  testTooManyChecksOfAHost = refusedOnA "The host a: fleet\\.health has 65 checks, and a host can have 64" {
    fleet.health = lib.genAttrs (map (n: "x${toString n}") (lib.range 1 65)) (_: { unit = "a.service"; });
  };

  testAFaultyCheckOfAHost = refusedOnA "The host a: fleet\\.health\\.x must have exactly one of" { fleet.health.x = { }; };

  testACheckOfAHostFromNobody = refusedOnA "The host a: fleet\\.health\\.x is looked at from \"c\"" {
    fleet.health.x = {
      tcp = "a:80";
      from = "c";
    };
  };

  testPlanAndHostHaveOneTypeOfChecks = {
    expr =
      let
        check = {
          http = {
            url = "https://example.org";
            status = 204;
          };
          timeout = 7;
          interval = 3;
          from = "operator";
        };
        fleet = mkFleet (hostWith {
          deploy.health.x = check;
          nixos.fleet.health.x = check;
        });
      in
      fleet.plan.hosts.a.deploy.health == fleet.hosts.a.record.specs.health;
    expected = true;
  };

  # The boot guard.
  testTheBootGuard = {
    expr =
      let
        unit = bootGuard (configOf { });
      in
      {
        inherit (unit)
          after
          before
          conflicts
          wantedBy
          restartIfChanged
          stopIfChanged
          unitConfig
          ;
        inherit (unit.serviceConfig) Type Restart RemainAfterExit;
        program = builtins.match "/nix/store/[^/]*-fleet-helper-[^/]*/bin/fleet-helper boot-guard" (
          builtins.unsafeDiscardStringContext unit.serviceConfig.ExecStart
        ) != null;
      };
    expected = {
      program = true;
      Type = "notify";
      Restart = "on-failure";
      RemainAfterExit = true;
      wantedBy = [
        "sysinit.target"
        "emergency.target"
        "rescue.target"
      ];
      after = [ "systemd-remount-fs.service" ];
      before = [
        "sysinit.target"
        "shutdown.target"
      ];
      conflicts = [ "shutdown.target" ];
      restartIfChanged = false;
      stopIfChanged = false;
      unitConfig = {
        DefaultDependencies = false;
        IgnoreOnIsolate = true;
        RefuseManualStop = true;
        RequiresMountsFor = "/nix/var/fleet";
        StartLimitIntervalSec = 0;
        X-StopOnRemoval = false;
      };
    };
  };

  testAHostThatIsNotGuardedHasNothingOfIt = {
    expr =
      let
        inherit (mkFleet (hostWith { deploy.guard.enable = false; })) hosts;
        inherit (hosts.a.nixos) config;
      in
      {
        units = config.systemd.services // config.systemd.targets;
        scripts = config.system.activationScripts;
        inherit (config.environment) etc;
        inherit (config.boot) kernelParams;
        manager = config.systemd.settings.Manager;
      };
    expected = {
      units = { };
      scripts = { };
      etc = { };
      kernelParams = [ ];
      manager = { };
    };
  };

  testABootGuardCanBeLeftOut = {
    expr = (configOf { fleet.guard.bootGuard.enable = false; }).systemd.services;
    expected = { };
  };

  testAMaskedBootGuard = refusedOnA "systemd\\.services\\.fleet-boot-guard\\.enable is false, which masks the unit" {
    systemd.services.fleet-boot-guard.enable = false;
  };

  # Boots that are counted.
  testAHostThatDoesNotCountBootsHasNoConditionOfThem = {
    expr = (configOf { }).systemd.services ? systemd-bless-boot;
    expected = false;
  };

  testACountedBootIsGoodOnceItIsConfirmed = {
    expr =
      let
        condition =
          nixos: (configOf nixos).systemd.services.systemd-bless-boot.serviceConfig.ExecCondition;
      in
      map (nixos: lib.hasSuffix "/bin/fleet-helper may-bless" (condition nixos)) [
        { boot.loader.systemd-boot.bootCounting.enable = true; }
        { boot.lanzaboote.bootCounting.initialTries = 3; }
      ];
    expected = [
      true
      true
    ];
  };

  testWithoutABootGuardNothingKeepsBootsFromBeingGood = {
    expr =
      (configOf {
        fleet.guard.bootGuard.enable = false;
        boot.loader.systemd-boot.bootCounting.enable = true;
      }).systemd.services;
    expected = { };
  };

  # Panics and hangs.
  testAPanicReboots = {
    expr = parameters {
      fleet.guard = {
        panicTimeout = 10;
        panicOnFail = true;
      };
    };
    expected = [
      "panic=10"
      "boot.panic_on_fail"
    ];
  };

  testPanicsAreLeftAsTheyAre = {
    expr = parameters { };
    expected = [ ];
  };

  testAPanicThatIsForEver = refusedOnA "nothing reboots the host then: fleet\\.guard\\.panicTimeout is not set" {
    fleet.guard.panicOnFail = true;
  };

  testTheWatchdog = {
    expr =
      (configOf {
        fleet.guard.watchdog.runtime = 30;
      }).systemd.settings.Manager;
    expected.RuntimeWatchdogSec = "30s";
  };

  # What a deployment comes through.
  testNetworkManagerIsNotRestarted = {
    expr =
      let
        unit = nixos: (configOf nixos).systemd.services.NetworkManager.restartIfChanged;
      in
      {
        byDefault = unit { networking.networkmanager.enable = true; };
        asked = unit {
          networking.networkmanager.enable = true;
          systemd.services.NetworkManager.restartIfChanged = true;
        };
      };
    expected = {
      byDefault = false;
      asked = true;
    };
  };

  testConnectionsOfSshAreLeftAlone = {
    expr =
      let
        services =
          openssh:
          removeAttrs (configOf { services.openssh = openssh // { enable = true; }; }).systemd.services [
            "fleet-boot-guard"
          ];
      in
      {
        always = services { };
        inherit ((services { startWhenNeeded = true; })."sshd@") restartIfChanged;
      };
    expected = {
      always = { };
      restartIfChanged = false;
    };
  };

  # Online activation.
  testOnlineScriptsRunOnlyWhileSomebodyDeploys = {
    expr = (online "ceph mon getmap").monmap;
    expected = {
      deps = [ "onlineActivation" ];
      text = ''
        if [ -n "''${FLEET_ONLINE_ACTIVATION+set}" ]; then
        :
        ceph mon getmap
        fi
      '';
    };
  };

  testOnlineScriptsKeepTheirOrder = {
    expr =
      let
        scripts = online {
          text = "ceph mon getmap";
          deps = [ "users" ];
          supportsDryActivation = true;
        };
      in
      {
        inherit (scripts.monmap) deps supportsDryActivation;
        anchor = scripts ? onlineActivation;
      };
    expected = {
      deps = [
        "onlineActivation"
        "users"
      ];
      supportsDryActivation = true;
      anchor = true;
    };
  };

  testTwoModulesOfOneOnlineScript = {
    expr = lib.hasInfix "\none\ntwo\n" (
      (configOf {
        imports = [
          { system.onlineActivationScripts.x = "one"; }
          { system.onlineActivationScripts.x.text = "two"; }
        ];
      }).system.activationScripts.x.text
    );
    expected = true;
  };

  testOnlineScriptsNeedActivationScripts = refusedOnA "The host a has system\\.onlineActivationScripts \\(monmap\\), and system\\.nixos-init" {
    options.system.nixos-init.enable = lib.mkOption { type = lib.types.bool; };
    config.system.nixos-init.enable = true;
    config.system.onlineActivationScripts.monmap = "true";
  };

  testTheTargetOfADeploymentIsThereForWhoAsksForIt = {
    expr =
      let
        targets =
          units:
          (configOf { systemd = units; }).systemd.targets;
      in
      {
        none = targets { };
        service = (targets { services.x.wantedBy = [ "online-activation.target" ]; }).online-activation.unitConfig;
        timer = targets { timers.x.requiredBy = [ "online-activation.target" ]; } ? online-activation;
      };
    expected = {
      none = { };
      service = {
        X-OnlyManualStart = true;
        StopWhenUnneeded = true;
      };
      timer = true;
    };
  };
}
// lib.concatMapAttrs (
  name: nixpkgs: lib.mapAttrs' (test: lib.nameValuePair "test${test}${name}") (wholeTests nixpkgs)
) wholeNixpkgs
