# Systems with secrets, with the stand-in's NixOS and, where a checkout is given, with the real one; and what a published description of
# an older fleet shows, where FLEET_README names it.
{
  lib,
  callFlake,
  callFlakeText,
  callFleet,
  flake-parts,
  mkFleet,
  wholeNixpkgs,
  ...
}:
let
  x86 = "x86_64-linux";

  # A fleet with this nixpkgs.
  fleetWith =
    nixpkgs: module:
    let
      inputs = {
        inherit nixpkgs flake-parts self;
        # A real NixOS may be too old to build the program itself.
        fleet = callFleet wholeNixpkgs."";
      };
      self =
        flake-parts.lib.mkFlake { inherit inputs; } {
          systems = [ x86 ];
          imports = [ inputs.fleet.flakeModules.default ];
          fleetConfigurations.default = module;
        }
        // {
          _type = "flake";
          outPath = "/user";
        };
    in
    self.fleetConfigurations.default;

  machine = {
    boot.loader.grub.enable = false;
    fileSystems."/" = {
      device = "/dev/disk/by-label/nixos";
      fsType = "ext4";
    };
  };

  password = { mkPassword }: mkPassword { };

  # Every option is set.
  withSecrets = {
    stateDir = ../fixtures/state;
    nixos = machine;
    sharedSecrets."ca.pem" = {
      expectedOwners = [ "a" ];
      generator = { mkX509Ca }: mkX509Ca { subject.CN = "x"; };
      owner = "db";
    };
    hosts.a = {
      system = x86;
      nixos =
        { config, ... }:
        {
          users.users.db = {
            isSystemUser = true;
            group = "db";
          };
          users.groups.db = { };
          secrets = {
            db = {
              generator = password;
              owner = "db";
              group = "db";
              mode = "0400";
              restartUnits = [ "app.service" ];
              credentials.db-password = "secret";
            };
            password = {
              generator = { mkPasswordHash }: mkPasswordHash { };
              neededForUsers = true;
            };
            wg.generator = { mkWireguard }: mkWireguard { };
          };
          secretTemplates."app.conf" = {
            content = "password = ${config.secrets.db.secret.placeholder}";
            owner = "db";
            group = "db";
            mode = "0440";
            path = "/etc/app.conf";
            restartUnits = [ "app.service" ];
          };
          systemd.services.app = {
            script = "cat ${config.secrets.db.secretPath} ${config.secrets.wg.public.path}";
            serviceConfig.LoadCredential = "db-password";
          };
          environment.etc.peer.text = config.secrets.wg.public.data;
        };
    };
  };

  without =
    more:
    {
      nixos.imports = [
        machine
        more
      ];
      hosts.a.system = x86;
    };

  tests =
    nixpkgs:
    let
      host = (fleetWith nixpkgs withSecrets).hosts.a;
    in
    {
      WithSecretsEvaluates = {
        expr = {
          inherit (host.record.specs) missing;
          system = lib.hasSuffix ".drv" host.record.system.drvPath;
          text = host.nixos.config.environment.etc.peer.text;
          unit = lib.hasInfix "Before=" host.nixos.config.systemd.units."fleet-secrets.service".text;
        };
        expected = {
          missing = [ ];
          system = true;
          text = "key-of-a";
          unit = true;
        };
      };

      HasProgramsOfGenerators = {
        expr = lib.mapAttrs (_: program: lib.hasSuffix "/bin/generate" program.program) host.generators.${x86};
        expected = {
          db = true;
          password = true;
          wg = true;
        };
      };

      SaysAtOnceWhatIsMissing = {
        expr =
          (fleetWith nixpkgs {
            imports = [ withSecrets ];
            stateDir = lib.mkForce "/no/such/folder";
            hosts.a.nixos.environment.etc.peer.text = lib.mkForce "";
          }).hosts.a.record.system;
        expectedError = {
          type = "ThrownError";
          msg = "host/a/db, host/a/password, host/a/wg\\.";
        };
      };

      WithoutSecretsIsAsBefore = {
        expr =
          let
            toplevel = more: (fleetWith nixpkgs (without more)).hosts.a.nixos.config.system.build.toplevel.outPath;
          in
          toplevel { } == toplevel { disabledModules = [ ../../../flakeModule/nixos/secrets ]; };
        expected = true;
      };
    };

  # The examples, with what the stand-in's NixOS lacks for them.
  example =
    name: stub:
    let
      nixpkgs = wholeNixpkgs."";
      withStub = nixpkgs // {
        lib = nixpkgs.lib // {
          nixosSystem = arguments: nixpkgs.lib.nixosSystem (arguments // { modules = arguments.modules ++ [ stub ]; });
        };
      };
      flake = callFlake (../../../examples + "/${name}") {
        nixpkgs = withStub;
        fleet = callFleet nixpkgs;
        inherit flake-parts;
      };
    in
    flake.fleetConfigurations.default;

  missing = fleet: lib.mapAttrs (_: host: host.record.specs.missing) fleet.hosts;

  # The blocks of Nix in a document of another markup.
  readme = builtins.getEnv "FLEET_README";
  block =
    n:
    lib.elemAt (map (text: lib.head (lib.splitString "\n----" text)) (
      lib.tail (lib.splitString "[source,nix]\n----\n" (builtins.readFile readme))
    )) n;

  evaluate = text: import (builtins.toFile "block.nix" text);

  # Paths in the document are below its reader's flake.
  flake = callFlakeText (lib.replaceStrings [ "./" ] [ "${toString ../fixtures/older}/" ] (block 0)) {
    inherit flake-parts;
    nixpkgs = wholeNixpkgs."";
    fleet = callFleet wholeNixpkgs."";
    lanzaboote.nixosModules.lanzaboote.options.services.ray = lib.mkOption { type = lib.types.anything; };
  };

  # What services and packages the blocks name.
  stubs =
    { pkgs, ... }:
    {
      options.services.gitlab = lib.mkOption { type = lib.types.anything; };
      options.environment.systemPackages = lib.mkOption { type = lib.types.listOf lib.types.raw; };
    };

  gitlab = mkFleet {
    hosts.a = {
      system = x86;
      nixos.imports = [
        stubs
        (evaluate (block 1))
      ];
    };
  };

  # A module that sets options of the fleet and of hosts at once; its placeholders are bound, and a brace that it lacks is added.
  kubernetes =
    let
      module = evaluate (
        lib.replaceStrings [ "{...}: {\n" "\"[CENSORED]\"" ] [ "{ pkgs, config, openssl-conf, sans, ... }: {\n" "\"hsm\"" ] (
          lib.removeSuffix "}" (block 2) + "};}"
        )
      );
      bound = arguments: module ({
        pkgs = throw "no packages";
        config = throw "no configuration";
        openssl-conf = "/etc/openssl.conf";
        sans = [ "DNS:kubernetes.default" ];
      } // arguments);
    in
    mkFleet {
      inherit (bound { }) nixpkgs sharedSecrets;
      hosts = lib.genAttrs [ "controlplane-1" "controlplane-2" "worker-1" "worker-2" "cluster-admin" "hsm" ] (_: {
        system = x86;
      });
    };
in
lib.concatMapAttrs (
  name: nixpkgs: lib.mapAttrs' (test: lib.nameValuePair "testASystem${test}${name}") (tests nixpkgs)
) wholeNixpkgs
// {
  testSecretsOfASpecialisationAreTheHosts = {
    expr =
      let
        host =
          (fleetWith wholeNixpkgs."" {
            imports = [ withSecrets ];
            hosts.a.nixos.specialisation.other.configuration = {
              secrets.new.generator = password;
              secrets.db.mode = lib.mkForce "0440";
            };
          }).hosts.a;
      in
      {
        inherit (host.record.specs) missing;
        declared = lib.attrNames host.record.specs.secrets;
        program = host.generators.${x86} ? new;
        own = lib.attrNames host.nixos.config.secrets;
        modes = map (configuration: configuration.secrets.db.mode) [
          host.nixos.config
          host.nixos.config.specialisation.other.configuration
        ];
      };
    expected = {
      missing = [ "host/a/new" ];
      declared = [
        "db"
        "new"
        "password"
        "wg"
      ];
      program = true;
      own = [
        "ca.pem"
        "db"
        "password"
        "wg"
      ];
      modes = [
        "0400"
        "0440"
      ];
    };
  };

  testTheKubernetesExampleAsksForItsSecrets = {
    expr =
      let
        fleet = example "kubernetes-hsm" { };
      in
      {
        missing = missing fleet;
        on = lib.mapAttrs (_: s: s.generator.on) fleet.plan.sharedSecrets;
        names =
          map (argument: argument.sans or [ ]) fleet.plan.sharedSecrets."apiserver.pem".generator.data.arguments;
      };
    expected = {
      missing = {
        controlplane-1 = [
          "shared/admin.pem"
          "shared/apiserver.pem"
          "shared/ca.pem"
        ];
        controlplane-2 = [
          "shared/apiserver.pem"
          "shared/ca.pem"
        ];
        hsm-1 = [ "host/hsm-1/hsm-pin" ];
        worker-1 = [ "shared/ca.pem" ];
      };
      on = {
        "admin.pem" = "hsm-1";
        "apiserver.pem" = "hsm-1";
        "ca.pem" = "hsm-1";
      };
      names = [
        [
          "DNS:kubernetes"
          "IP:10.77.0.12"
          "IP:10.77.0.13"
        ]
      ];
    };
  };

  testTheGitlabExampleAsksForItsSecrets = {
    expr = missing (
      example "gitlab" {
        options.services.gitlab =
          lib.genAttrs [ "enable" "initialRootPasswordFile" ] (_: lib.mkOption { type = lib.types.raw; })
          // {
            secrets = lib.genAttrs [ "secretFile" "otpFile" "dbFile" "jwsFile" ] (
              _: lib.mkOption { type = lib.types.str; }
            );
          };
      }
    );
    expected = lib.mapAttrs (host: map (name: "host/${host}/${name}")) {
      gitlab = [
        "gitlab-db"
        "gitlab-jws"
        "gitlab-otp"
        "gitlab-root"
        "gitlab-secret"
      ];
    };
  };
}
// lib.optionalAttrs (readme != "") {
  testThePublishedFlakeEvaluates = {
    expr =
      let
        fleet = flake.fleetConfigurations.default;
      in
      {
        hosts = lib.attrNames fleet.plan.hosts;
        inherit (fleet.plan) warnings;
        system = lib.hasSuffix ".drv" fleet.hosts.controlplane-1.record.system.drvPath;
        inherit (fleet.hosts.controlplane-1.nixos.config.services) ray;
        apps = lib.attrNames flake.apps.${x86};
      };
    expected = {
      hosts = [
        "a"
        "b"
        "c"
        "controlplane-1"
        "d"
      ];
      warnings = [ "the mesh is there" ];
      system = true;
      ray = {
        gpus = 4;
        cpus = 128;
      };
      apps = [
        "deploy"
        "fleet"
        "secrets"
      ];
    };
  };

  testThePublishedGitlabHasItsSecrets = {
    expr = {
      secrets = lib.mapAttrs (_: s: s.generator.data.generator) gitlab.hosts.a.record.specs.secrets;
      path = gitlab.hosts.a.nixos.config.services.gitlab.secrets.jwsFile;
      owner = gitlab.hosts.a.nixos.config.secrets.gitlab-otp.owner;
    };
    expected = {
      secrets = {
        gitlab-initial-root = "mkPassword";
        gitlab-secret = "mkPassword";
        gitlab-otp = "mkPassword";
        gitlab-db = "mkPassword";
        gitlab-jws = "mkRsa";
      };
      path = "/run/secrets/gitlab-jws/missing-secret";
      owner = "gitlab";
    };
  };

  testThePublishedKubernetesHasItsSecrets = {
    expr = lib.mapAttrs (_: s: {
      inherit (s) owners regenerateOnOwnerAdded onGeneratorChange;
      inherit (s.generator) on sandbox data;
    }) kubernetes.plan.sharedSecrets;
    expected =
      let
        secret = generator: arguments: owners: regenerateOnOwnerAdded: {
          inherit owners regenerateOnOwnerAdded;
          onGeneratorChange = "notice";
          on = "hsm";
          sandbox = "none";
          data = {
            inherit generator;
            arguments = [ arguments ];
          };
        };
      in
      {
        "ca.pem" = secret "readKubernetesCa" { } [
          "controlplane-1"
          "controlplane-2"
          "worker-1"
          "worker-2"
        ] false;
        "kube-admin.pem" = secret "mkKubernetesCert" {
          subj = {
            CN = "admin";
            O = "system:masters";
          };
        } [ "cluster-admin" ] false;
        "kube-apiserver.pem" = secret "mkKubernetesCert" {
          sans = [ "DNS:kubernetes.default" ];
          subj.CN = "kubernetes";
        } [ "controlplane-1" "controlplane-2" ] true;
      };
  };

  testThePublishedKubernetesHasPrograms = {
    expr = lib.attrNames kubernetes.generators.${x86}.shared;
    expected = [
      "ca.pem"
      "kube-admin.pem"
      "kube-apiserver.pem"
    ];
  };
}
