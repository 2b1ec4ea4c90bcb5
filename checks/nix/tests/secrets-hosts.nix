# Secrets of hosts: what modules get of them, what records say, what is missing, and what one host reads of another. The state is
# ../fixtures/state, whose values open with no key.
{
  lib,
  mkFleet,
  mkUser,
  ...
}:
let
  x86 = "x86_64-linux";
  state = ../fixtures/state;

  hosts = {
    stateDir = lib.mkDefault state;
    # Its unit is none of secrets.
    hostDefaults.deploy.guard.enable = false;
    hosts.a.system = x86;
    hosts.b.system = x86;
    hosts.c.system = x86;
  };

  fleet =
    module:
    mkFleet {
      imports = [
        hosts
        module
      ];
    };

  onA = nixos: (fleet { hosts.a.nixos = nixos; }).hosts.a;
  secretsOfA = secrets: (onA { inherit secrets; }).nixos.config.secrets;

  error = msg: expr: {
    inherit expr;
    expectedError = {
      type = "ThrownError";
      inherit msg;
    };
  };
  errorOnA = msg: nixos: error msg (onA nixos).record.system;

  password = { mkPassword }: mkPassword { };
  wireguard = { mkWireguard }: mkWireguard { };
  authority = { mkX509Ca }: mkX509Ca { subject.CN = "x"; };

  meta = id: builtins.fromJSON (builtins.readFile (state + "/secrets/${id}/meta.json"));
  commit = id: part: (meta id).parts.${part}.commit;

  user = {
    users.users.db.group = "database";
    users.groups.database = { };
  };

  manifest = host: builtins.fromJSON host.nixos.config.environment.etc."fleet/secrets.json".source.text;

  # Hosts that all know the public keys of all.
  mesh =
    count: more:
    mkFleet (
      { fleetLib, ... }:
      {
        imports = [ more ];
        stateDir = lib.mkDefault state;
        hosts = lib.listToAttrs (
          lib.genList (i: lib.nameValuePair "h${toString i}" { system = x86; }) count
        );
        nixos =
          {
            host,
            hosts,
            nixosHosts,
            ...
          }:
          {
            secrets.wireguard.generator = wireguard;
            note = lib.mapAttrs (
              name: _: nixosHosts.${name}.secrets.wireguard.public.data
            ) (fleetLib.others host.name hosts);
          };
      }
    );

  onlyMayBeEvaluated =
    wanted:
    { host, ... }:
    if host.name == wanted then { } else throw "host ${host.name} was evaluated for ${wanted}";
in
{
  # What modules get.
  testPathsChangeWithTheValue = {
    expr =
      let
        inherit (secretsOfA { db.generator = password; }) db;
      in
      {
        inherit (db) secretPath owner mode group;
        inherit (db.secret) path stablePath placeholder;
      };
    expected = {
      secretPath = "/run/secrets/db/${commit "host/a/db" "secret"}-secret";
      path = "/run/secrets/db/${commit "host/a/db" "secret"}-secret";
      stablePath = "/run/secrets/db/secret";
      placeholder = "<FLEET-SECRET:${builtins.substring 0 32 (builtins.hashString "sha256" "host/a/db/secret")}>";
      owner = "root";
      group = "root";
      mode = "0440";
    };
  };

  testAllPartsAreThere = {
    expr =
      let
        secrets = secretsOfA {
          password.generator = { mkPasswordHash }: mkPasswordHash { };
          wg.generator = wireguard;
        };
      in
      [
        secrets.password.hash.stablePath
        secrets.wg.public.stablePath
        secrets.wg.public.data
      ];
    expected = [
      "/run/secrets/password/hash"
      "/run/secrets/wg/public"
      "key-of-a"
    ];
  };

  testSecretsForUsersAreElsewhere = {
    expr =
      (secretsOfA {
        db = {
          generator = password;
          neededForUsers = true;
        };
      }).db.secret.stablePath;
    expected = "/run/secrets-for-users/db/secret";
  };

  # Modules can be written before there is a value: only a public value cannot be had.
  testPathsAreThereBeforeTheValueIs = {
    expr =
      let
        inherit (secretsOfA { new.generator = { mkPasswordHash }: mkPasswordHash { }; }) new;
      in
      [
        new.secretPath
        new.public.path
        new.hash.stablePath
      ];
    expected = [
      "/run/secrets/new/missing-secret"
      "/run/secrets/new/missing-public"
      "/run/secrets/new/hash"
    ];
  };

  testTheGroupIsThatOfTheOwner = {
    expr =
      lib.mapAttrsToList (_: secret: secret.group)
        (onA {
          imports = [ user ];
          secrets.db = {
            generator = password;
            owner = "db";
          };
          secrets.wg = {
            generator = wireguard;
            owner = "nobody-we-know";
          };
        }).nixos.config.secrets;
    expected = [
      "database"
      "root"
    ];
  };

  testAMissingPublicPartHasAMarker = error "^ *fleet-missing-public: host/a/new public$" (
    secretsOfA { new.generator = wireguard; }
  ).new.public.data;
  testAMissingPublicPartNamesTheCommand = error "Make it: nix run \\.#secrets -- sync" (secretsOfA {
    new.generator = wireguard;
  }).new.public.data;
  testAnotherFleetHasAnotherCommand =
    error "Make it: nix run \\.#secrets-staging -- sync"
      (mkUser {
        fleetConfigurations.staging.hosts.a = {
          system = x86;
          nixos.secrets.new.generator = wireguard;
        };
      }).fleetConfigurations.staging.hosts.a.nixos.config.secrets.new.public.data;
  testAMissingPublicPartOfASharedSecret = error "^ *fleet-missing-public: shared/new public$" (fleet {
    sharedSecrets.new = {
      expectedOwners = [ "a" ];
      generator = authority;
    };
  }).hosts.a.nixos.config.secrets.new.public.data;
  testAnEncryptedPartHasNoValueHere = error "The part \"secret\" of the secret host/a/db is encrypted" (secretsOfA {
    db.generator = password;
  }).db.secret.data;
  testAnEncryptedPartHasNoValueBeforeItIsMadeEither = error "The part \"secret\" of the secret host/a/new is encrypted" (
    secretsOfA { new.generator = password; }
  ).new.secret.data;
  testBytesAreNoText = error "The public part \"public\" of the secret host/a/bytes is no text" (secretsOfA {
    bytes.generator = { mkX25519 }: mkX25519 { };
  }).bytes.public.data;

  # Records.
  testSpecsAreOwnSecretsAlone = {
    expr =
      (fleet {
        sharedSecrets."ca.pem" = {
          expectedOwners = [ "a" ];
          generator = authority;
        };
        hosts.a.nixos.secrets.db.generator = password;
      }).hosts.a.record.specs;
    expected = {
      missing = [ ];
      health = { };
      secrets.db = {
        owners = [ ];
        generator = {
          kind = "script";
          on = null;
          sandbox = "strict";
          data = {
            generator = "mkPassword";
            size = 32;
            noSymbols = false;
          };
          seed = null;
          dependencies = { };
          ask = null;
        };
        parts.secret = {
          encrypted = true;
          type = "";
          pattern = "";
        };
        regenerateOnOwnerAdded = false;
        regenerateOnOwnerRemoved = false;
        onGeneratorChange = "regenerate";
        onDependencyChange = "regenerate";
      };
    };
  };

  testSpecsOfAHostWithoutSecrets = {
    expr = (fleet { }).hosts.a.record.specs;
    expected = {
      secrets = { };
      missing = [ ];
      health = { };
    };
  };

  testSpecsAreEvaluatedWithoutTheSystem = {
    expr =
      lib.attrNames
        (onA {
          secrets.new.generator = wireguard;
          assertions = [
            {
              assertion = false;
              message = "the system was evaluated";
            }
          ];
          note = throw "the configuration was evaluated";
        }).record.specs.secrets;
    expected = [ "new" ];
  };

  testSpecsAreWithoutContext = {
    expr =
      builtins.hasContext (
        builtins.toJSON
          (onA {
            secrets.s.generator =
              { mkSecretGenerator, coreutils }: mkSecretGenerator "${coreutils}/bin/date > $out/secret";
          }).record.specs
      );
    expected = false;
  };

  testWhatIsMissing = {
    expr =
      let
        inherit
          (fleet {
            sharedSecrets = {
              # In the state for a and b, not for c.
              "ca.pem" = {
                expectedOwners = [ "@all" ];
                generator = authority;
              };
              # The state has no such part.
              "web.pem" = {
                expectedOwners = [ "a" ];
                parts = {
                  secret = { };
                  chain.encrypted = false;
                };
              };
              none.expectedOwners = [ "c" ];
            };
            hosts.a.nixos.secrets = {
              db.generator = password;
              stale.generator = password;
              new = { };
              # Declared as public, and encrypted in the state.
              password.parts = {
                secret = { };
                hash.encrypted = false;
              };
            };
          })
          hosts
          ;
      in
      lib.mapAttrs (_: host: host.record.specs.missing) hosts;
    expected = {
      a = [
        "host/a/new"
        "host/a/password"
        "host/a/stale"
        "shared/web.pem"
      ];
      b = [ ];
      c = [
        "shared/ca.pem"
        "shared/none"
      ];
    };
  };

  testPartsThatNobodyDeclaredAreNotMissing = {
    expr =
      (onA { secrets.password.generator = { mkSecretGenerator }: mkSecretGenerator "true"; }).record.specs.missing;
    expected = [ ];
  };

  testDependenciesOfOwnSecrets = {
    expr =
      (fleet {
        sharedSecrets."ca.pem".generator = authority;
        sharedSecrets.both.generator = authority;
        hosts.a.nixos.secrets = {
          both.generator = authority;
          leaf.generator =
            { mkSecretGenerator }:
            mkSecretGenerator {
              script = "true";
              dependencies = [
                "both"
                "ca.pem"
              ];
            };
        };
      }).hosts.a.record.specs.secrets.leaf.generator.dependencies;
    expected = {
      both = "host/a/both";
      "ca.pem" = "shared/ca.pem";
    };
  };

  testProgramsOfOwnGenerators = {
    expr =
      let
        host =
          (fleet {
            hosts.a.nixos.secrets = {
              db.generator = password;
              asked.generator = { mkAskPass }: mkAskPass { };
              given = { };
            };
          }).hosts.a;
      in
      {
        names = lib.attrNames host.generators.${x86};
        here = lib.hasSuffix "/bin/generate" host.generators.${x86}.db.program;
        elsewhere = host.generators.aarch64-linux.db.drvPath != host.generators.${x86}.db.drvPath;
        context = builtins.hasContext (builtins.toJSON host.generators.${x86});
      };
    expected = {
      names = [ "db" ];
      here = true;
      elsewhere = true;
      context = false;
    };
  };

  testOverlaysOfAHostAreInItsGenerators = {
    expr =
      let
        host =
          (fleet {
            nixpkgs.overlays = [ (final: prev: { mkOne = size: final.mkSecretGenerator "one ${toString size}"; }) ];
            hosts.a.nixpkgs.overlays = [ (final: prev: { mkTwo = size: final.mkSecretGenerator "two ${toString size}"; }) ];
            hosts.a.nixos = {
              nixpkgs.overlays = [ (final: prev: { mkThree = size: final.mkSecretGenerator "three ${toString size}"; }) ];
              secrets.one.generator = { mkOne }: mkOne 1;
              secrets.two.generator = { mkTwo }: mkTwo 2;
              secrets.three.generator = { mkThree }: mkThree 3;
            };
          }).hosts.a;
      in
      {
        data = lib.mapAttrs (_: s: s.generator.data) host.record.specs.secrets;
        elsewhere = lib.attrNames host.generators.aarch64-linux;
      };
    expected = {
      data = lib.mapAttrs (_: d: { generator = lib.head d; arguments = lib.tail d; }) {
        one = [ "mkOne" 1 ];
        two = [ "mkTwo" 2 ];
        three = [ "mkThree" 3 ];
      };
      elsewhere = [
        "one"
        "three"
        "two"
      ];
    };
  };

  # Shared secrets on their owners.
  testSharedSecretsAreOnTheirOwnersAlone = {
    expr =
      lib.mapAttrs (_: host: lib.attrNames host.nixos.config.secrets)
        (fleet {
          sharedSecrets."ca.pem".expectedOwners = [
            "a"
            "b"
          ];
          sharedSecrets."web.pem".expectedOwners = [ "a" ];
        }).hosts;
    expected = {
      a = [
        "ca.pem"
        "web.pem"
      ];
      b = [ "ca.pem" ];
      c = [ ];
    };
  };

  testTheFleetsWordsAreDefaultsForOwners = {
    expr =
      let
        config =
          (fleet {
            nixos = user;
            sharedSecrets."ca.pem" = {
              expectedOwners = [
                "a"
                "b"
              ];
              owner = "db";
              mode = "0400";
              restartUnits = [ "one.service" ];
            };
            hosts.b.nixos.secrets."ca.pem" = {
              owner = "root";
              restartUnits = [ "two.service" ];
            };
          }).hosts;
        of = host: {
          inherit (config.${host}.nixos.config.secrets."ca.pem")
            owner
            group
            mode
            restartUnits
            ;
        };
      in
      {
        a = of "a";
        b = of "b";
      };
    expected = {
      a = {
        owner = "db";
        group = "database";
        mode = "0400";
        restartUnits = [ "one.service" ];
      };
      b = {
        owner = "root";
        group = "root";
        mode = "0400";
        restartUnits = [
          "one.service"
          "two.service"
        ];
      };
    };
  };

  testTheNewerSpellingOnAHost = {
    expr =
      (fleet {
        secrets."ca.pem".expectedOwners = [ "a" ];
        hosts.a.nixos.secrets."ca.pem" = {
          generator = "shared";
          mode = "0400";
        };
      }).hosts.a.nixos.config.secrets."ca.pem".public.data;
    expected = "the certificate\n";
  };

  # What one host reads of another.
  testPublicPartsOfOtherHosts = {
    expr = lib.mapAttrs (_: host: host.nixos.config.note) (lib.getAttrs [ "a" "c" ]
      (fleet {
        sharedSecrets."ca.pem".expectedOwners = [ "b" ];
        hosts.a.nixos =
          { nixosHosts, ... }:
          {
            secrets.wg.generator = wireguard;
            note = {
              own = nixosHosts.a.secrets.wg.public.data;
              other = nixosHosts.b.secrets.wg.public.data;
              shared = nixosHosts.b.secrets."ca.pem".public.data;
              path = nixosHosts.b.secrets.wg.public.path;
            };
          };
        # Whatever the state has can be asked for.
        hosts.c.nixos =
          { nixosHosts, ... }:
          {
            note.other = nixosHosts.b.secrets.wg.public.data;
          };
        hosts.b.nixos = throw "b was evaluated";
      }).hosts);
    expected = {
      a = {
        own = "key-of-a";
        other = "key-of-b";
        shared = "the certificate\n";
        path = "/run/secrets/wg/${commit "host/b/wg" "public"}-public";
      };
      c.other = "key-of-b";
    };
  };

  testAMissingPublicPartOfAnotherHostIsThatHosts = error "^ *fleet-missing-public: host/h3 *" (
    (mesh 4 { }).hosts.h0.nixos.config.note.h3
  );
  testAMissingPublicPartNamesSecretAndPart = error "^ *fleet-missing-public: host/h3/wireguard public$" (
    (mesh 4 { }).hosts.h0.nixos.config.note.h3
  );

  testAMeshOfFiftyEvaluatesOneHostARecord = {
    expr =
      let
        fleet = mesh 50 {
          stateDir = ../fixtures/mesh-state;
          nixos = onlyMayBeEvaluated "h7";
          # The state has the keys of three; the others are read by nobody here.
          hosts.h7.nixos.note = lib.mkForce { };
        };
        asked = mesh 50 {
          stateDir = ../fixtures/mesh-state;
          nixos.imports = [
            (onlyMayBeEvaluated "h7")
            (
              { nixosHosts, ... }:
              {
                note = lib.mkForce (
                  lib.genAttrs [
                    "h1"
                    "h2"
                  ] (name: nixosHosts.${name}.secrets.wireguard.public.data)
                );
              }
            )
          ];
        };
      in
      {
        record = lib.attrNames fleet.hosts.h7.record.specs.secrets;
        system = lib.hasSuffix ".drv" asked.hosts.h7.record.system.drvPath;
        keys = asked.hosts.h7.nixos.config.note;
      };
    expected = {
      record = [ "wireguard" ];
      system = true;
      keys = {
        h1 = "key-of-h1";
        h2 = "key-of-h2";
      };
    };
  };

  # Assertions, all at once.
  testAllThatIsMissingIsSaidAtOnce = errorOnA "for the host a, or not as they are declared: host/a/new, host/a/other\\." {
    secrets.new.generator = password;
    secrets.other.generator = password;
  };
  testMissingNamesTheCommand = errorOnA "Run: nix run \\.#secrets -- sync$" { secrets.new.generator = password; };
  testMissingNamesTheCommandForWhatAPersonGives = errorOnA "Run: nix run \\.#secrets -- set host/a/given$" { secrets.given = { }; };
  testAPathIsNoReasonToFailBeforeAllIsSaid = error "or not as they are declared: host/a/new" (
    (onA (
      { config, ... }:
      {
        secrets.new.generator = { mkPasswordHash }: mkPasswordHash { };
        note.a = "${config.secrets.new.secretPath} ${config.secrets.new.hash.path} ${config.secrets.new.secret.placeholder}";
      }
    )).record.system
  );
  testAnUnknownUser = errorOnA "secrets\\.db of the host a\\.owner is \"nobody-here\", and the host has no user of that name" {
    secrets.db = {
      generator = password;
      owner = "nobody-here";
    };
  };
  testAnUnknownGroup = errorOnA "secrets\\.db of the host a\\.group is \"nothing\", and the host has no group of that name" {
    secrets.db = {
      generator = password;
      group = "nothing";
    };
  };
  testUsersDoNotExistBeforeUsers = errorOnA "secrets\\.db of the host a is neededForUsers, and belongs to db:database" {
    imports = [ user ];
    secrets.db = {
      generator = password;
      owner = "db";
      neededForUsers = true;
    };
  };
  testOthersGetNothing = error "secrets\\.db\\.mode.*mode in octal that gives others nothing" (
    (secretsOfA {
      db = {
        generator = password;
        mode = "0644";
      };
    }).db.mode
  );
  testOwnAndSharedAtOnePlace =
    error "secrets\\.\"ca\\.pem\" of the host a and the shared secret of that name, which the host owns, would be at one place"
      (fleet {
        sharedSecrets."ca.pem".expectedOwners = [ "a" ];
        hosts.a.nixos.secrets."ca.pem".generator = password;
      }).hosts.a.record.specs;
  testSharedThatIsNotDeclared = error "has generator = \"shared\", and the fleet declares no such secret" (
    (onA { secrets.x.generator = "shared"; }).record.specs
  );
  testSharedThatIsNotOwned =
    error "has generator = \"shared\", but the host is no owner of the shared secret"
      (fleet {
        sharedSecrets."ca.pem".expectedOwners = [ "b" ];
        hosts.a.nixos.secrets."ca.pem".generator = "shared";
      }).hosts.a.record.specs;
  testAStrangeNameOnAHost = error "secrets\\.\"\\.\\./x\" of the host a: the name is no name of a secret" (
    (onA { secrets."../x".generator = password; }).record.specs
  );
  testAnUnknownHostToRunOn = error "its generator runs on \"hsm\" \\(impureOn\\), and the fleet has no host of that name" (
    (onA { secrets.x.generator = { mkImpureSecretGenerator }: mkImpureSecretGenerator "true" "hsm"; }).record.specs
  );
  testAnUnknownDependencyOnAHost = error "depends on shared/ca, and there is no such secret" (
    (onA { secrets.x.generator = { mkX509Leaf }: mkX509Leaf { ca = "ca"; }; }).record.specs
  );
  testAnUnknownOwnDependency = error "depends on host/a/ca, and there is no such secret" (
    (onA { secrets.x.generator = { mkX509Leaf }: mkX509Leaf { ca = "host/a/ca"; }; }).record.specs
  );
  testACircleOnAHost = error "in a circle: host/a/x → host/a/y → host/a/x\\." (
    (onA {
      secrets.x.generator = { mkX509Leaf }: mkX509Leaf { ca = "y"; };
      secrets.y.generator = { mkX509Leaf }: mkX509Leaf { ca = "x"; };
    }).record.specs
  );
  testProblemsAreToldWithTheSystemToo = errorOnA "has generator = \"shared\", and the fleet declares no such secret" {
    secrets.x.generator = "shared";
  };
  testACredentialOfAPartThatIsNone = errorOnA "credentials\\.c is the part \"hash\", and the secret has secret\\." {
    secrets.db = {
      generator = password;
      credentials.c = "hash";
    };
  };
  testACredentialOfTwoSecrets = errorOnA "The credential c is that of several secrets of the host a: db, wg" {
    secrets.db = {
      generator = password;
      credentials.c = "secret";
    };
    secrets.wg = {
      generator = wireguard;
      credentials.c = "secret";
    };
  };
  testAMountIsNotRestarted = errorOnA "is to restart or reload data\\.mount when a secret changes" {
    secrets.db = {
      generator = password;
      restartUnits = [ "data.mount" ];
    };
  };
  testTwoTemplatesAtOnePath = errorOnA "Several templates of the host a are at /etc/x: one, two" {
    secretTemplates = lib.genAttrs [ "one" "two" ] (_: {
      content = "x";
      path = "/etc/x";
    });
  };
  testATemplatesPathIsAbsolute = errorOnA "secretTemplates\\.one of the host a\\.path is \"etc/x\", which is no absolute path" {
    secretTemplates.one = {
      content = "x";
      path = "etc/x";
    };
  };

  # A state that is damaged.
  testConflictMarkers = error "secrets/host/a/conflict/meta.json has git's conflict markers" (
    (onA { secrets.conflict.generator = password; }).record.specs
  );
  testConflictMarkersNameTheCommand = error "Take one side of it: nix run \\.#secrets -- resolve" (
    (onA { secrets.conflict.generator = password; }).record.specs
  );
  testAnEmptyFile = error "secrets/host/a/emptied/meta.json is empty" (
    (onA { secrets.emptied.generator = password; }).record.specs
  );
  testADamagedFileIsNamed = error "secrets/host/a/cut/meta.json is no JSON object, or was cut" (
    (fleet {
      stateDir = ../fixtures/cut-state;
      hosts.a.nixos.secrets.cut.generator = password;
    }).hosts.a.record.specs
  );
  testADamagedCommitment = error "has no commitment of the part secret" (
    (fleet {
      stateDir = ../fixtures/cut-state;
      hosts.a.nixos.secrets.uncommitted.generator = password;
    }).hosts.a.nixos.config.secrets.uncommitted.secretPath
  );
  testABrokenSecretTakesNoOtherAlong = {
    expr =
      (secretsOfA {
        conflict.generator = password;
        db.generator = password;
      }).db.secret.stablePath;
    expected = "/run/secrets/db/secret";
  };

  # The manifest.
  testTheManifest = {
    expr = manifest (
      fleet {
        sharedSecrets."ca.pem".expectedOwners = [
          "a"
          "b"
        ];
        hosts.a.nixos =
          { config, ... }:
          {
            imports = [ user ];
            secrets.db = {
              generator = password;
              owner = "db";
              mode = "0400";
              credentials.db-password = "secret";
            };
            secretTemplates."db.conf" = {
              content = "password = ${config.secrets.db.secret.placeholder}";
              path = "/etc/db.conf";
            };
            secretTemplates.plain.content = "nothing";
          };
      }
    ).hosts.a;
    expected =
      let
        sealed = id: part: {
          encrypted = true;
          commit = commit id part;
          inherit (((builtins.fromJSON (builtins.readFile (state + "/secrets/${id}/owners/a.json"))).parts).${part}) armor;
          text = "";
          encoding = "";
        };
      in
      {
        format = 1;
        fleet = "default";
        host = "a";
        identities = [
          "/etc/ssh/ssh_host_ed25519_key"
          "/etc/ssh/ssh_host_rsa_key"
        ];
        secrets = [
          {
            id = "shared/ca.pem";
            inherit (meta "shared/ca.pem") gen seq;
            owner = "root";
            group = "root";
            mode = "0440";
            neededForUsers = false;
            credentials = { };
            parts = {
              secret = sealed "shared/ca.pem" "secret";
              public = {
                encrypted = false;
                commit = commit "shared/ca.pem" "public";
                armor = "";
                text = "the certificate\n";
                encoding = "text";
              };
            };
          }
          {
            id = "host/a/db";
            inherit (meta "host/a/db") gen seq;
            owner = "db";
            group = "database";
            mode = "0400";
            neededForUsers = false;
            credentials.db-password = "secret";
            parts.secret = sealed "host/a/db" "secret";
          }
        ];
        templates = [
          {
            name = "db.conf";
            owner = "root";
            group = "root";
            mode = "0440";
            content = "password = <FLEET-SECRET:${builtins.substring 0 32 (builtins.hashString "sha256" "host/a/db/secret")}>";
            path = "/etc/db.conf";
            neededForUsers = false;
          }
          {
            name = "plain";
            owner = "root";
            group = "root";
            mode = "0440";
            content = "nothing";
            path = "";
            neededForUsers = false;
          }
        ];
      };
  };

  testAManifestHoldsNoOtherHostsCiphertext = {
    expr =
      let
        armorOf = host: (builtins.fromJSON (builtins.readFile (state + "/secrets/shared/ca.pem/owners/${host}.json"))).parts.secret.armor;
        text = builtins.toJSON (manifest (fleet { sharedSecrets."ca.pem".expectedOwners = [ "a" "b" ]; }).hosts.b);
        escaped = text: builtins.replaceStrings [ "\n" ] [ "\\n" ] text;
      in
      map (host: lib.hasInfix (escaped (armorOf host)) text) [
        "a"
        "b"
      ];
    expected = [
      false
      true
    ];
  };

  testKeysCanBeElsewhere = {
    expr =
      (manifest (onA {
        secrets.db.generator = password;
        secretIdentities = [ "/persist/key" ];
      })).identities;
    expected = [ "/persist/key" ];
  };

  # Units.
  testTheUnit = {
    expr =
      let
        unit =
          (onA { secrets.db.generator = password; }).nixos.config.systemd.services.fleet-secrets;
      in
      {
        inherit (unit) wantedBy requiredBy before after unitConfig;
        exec = builtins.match "/nix/store/[^ ]*-fleet-helper-[^ ]*/bin/fleet-helper secrets-install --manifest /nix/store/[^ ]*-fleet-secrets.json --phase main" (
          builtins.unsafeDiscardStringContext unit.serviceConfig.ExecStart
        ) != null;
      };
    expected = {
      wantedBy = [ "sysinit.target" ];
      requiredBy = [ "sysinit-reactivation.target" ];
      before = [
        "sysinit.target"
        "sysinit-reactivation.target"
        "shutdown.target"
      ];
      after = [ ];
      unitConfig = {
        DefaultDependencies = false;
        RequiresMountsFor = [
          "/etc/ssh/ssh_host_ed25519_key"
          "/etc/ssh/ssh_host_rsa_key"
          "/run"
        ];
      };
      exec = true;
    };
  };

  testActivationScriptsMakeUsersAfterTheirSecrets = {
    expr =
      let
        inherit
          ((onA {
            secrets.db = {
              generator = password;
              neededForUsers = true;
            };
            system.activationScripts.specialfs = "true";
          }).nixos.config
          )
          system
          systemd
          ;
        script = system.activationScripts.fleet-secrets-users;
      in
      {
        inherit (script) deps;
        users = system.activationScripts.users.deps;
        phase = lib.hasSuffix " --phase users\n" script.text;
        units = lib.attrNames systemd.services;
      };
    expected = {
      deps = [ "specialfs" ];
      users = [ "fleet-secrets-users" ];
      phase = true;
      units = [ "fleet-secrets" ];
    };
  };

  testUnitsMakeUsersAfterTheirSecrets = {
    expr =
      let
        inherit
          ((onA {
            secrets.db = {
              generator = password;
              neededForUsers = true;
            };
            systemd.sysusers.enable = true;
          }).nixos.config
          )
          system
          systemd
          ;
      in
      {
        users = lib.sort builtins.lessThan systemd.services.fleet-secrets-users.before;
        main = systemd.services.fleet-secrets.after;
        scripts = system.activationScripts;
      };
    expected = {
      users = [
        "shutdown.target"
        "sysinit-reactivation.target"
        "sysinit.target"
        "systemd-sysusers.service"
        "userborn.service"
      ];
      main = [
        "systemd-sysusers.service"
        "userborn.service"
        "fleet-secrets-users.service"
      ];
      scripts = { };
    };
  };

  testUnitsAreRestartedByTheCommitments = {
    expr =
      let
        inherit
          ((onA (
            { config, ... }:
            {
              secrets.db = {
                generator = password;
                restartUnits = [
                  "one.service"
                  "two"
                  "three.socket"
                ];
              };
              secrets.wg = {
                generator = wireguard;
                reloadUnits = [ "one.service" ];
                restartUnits = [ "one.service" ];
              };
              secretTemplates.t = {
                content = "x ${config.secrets.wg.secret.placeholder}";
                restartUnits = [ "four.service" ];
              };
            }
          )).nixos.config
          )
          systemd
          ;
        triggers = lib.mapAttrs (_: unit: {
          restart = unit.restartTriggers;
          reload = unit.reloadTriggers;
        });
      in
      {
        services = triggers (removeAttrs systemd.services [ "fleet-secrets" ]);
        sockets = triggers systemd.sockets;
      };
    expected =
      let
        db = commit "host/a/db" "secret";
        wg = [
          (commit "host/a/wg" "public")
          (commit "host/a/wg" "secret")
        ];
      in
      {
        services = {
          one = {
            restart = [ db ] ++ wg;
            reload = wg;
          };
          two = {
            restart = [ db ];
            reload = [ ];
          };
          four = {
            restart = [
              (builtins.hashString "sha256" "x <FLEET-SECRET:${builtins.substring 0 32 (builtins.hashString "sha256" "host/a/wg/secret")}>")
              (commit "host/a/wg" "secret")
            ];
            reload = [ ];
          };
        };
        sockets.three = {
          restart = [ db ];
          reload = [ ];
        };
      };
  };

  testAHostWithoutSecretsHasNothingOfThem = {
    expr =
      let
        inherit
          (fleet {
            sharedSecrets."ca.pem".expectedOwners = [ "b" ];
          })
          hosts
          ;
        config = hosts.a.nixos.config;
      in
      {
        units = config.systemd.services;
        scripts = config.system.activationScripts;
        etc = config.environment.etc;
      };
    expected = {
      units = { };
      scripts = { };
      etc = { };
    };
  };

  # The check in `nix flake check`.
  testTheCheckKnowsEverySecret = {
    expr =
      let
        check =
          (mkUser {
            fleetConfigurations.default = {
              imports = [ hosts ];
              stateDir = lib.mkForce "/no/such/folder";
              sharedSecrets.s = { };
              hosts.a.nixos.secrets.new.generator = password;
            };
          }).checks.${x86}.fleet-default-secrets.text;
      in
      {
        runs = lib.hasInfix "/bin/fleet-helper secrets-check --plan " (builtins.unsafeDiscardStringContext check);
        state = lib.hasInfix "state=''\n" (builtins.unsafeDiscardStringContext check);
      };
    expected = {
      runs = true;
      state = true;
    };
  };

  testAFleetWithoutSecretsNeedsNoProgramToSaySo = {
    expr = (mkUser { fleetConfigurations.default.hosts.a.system = x86; }).checks.${x86}.fleet-default-secrets.text;
    expected = "The fleet default has no secrets.\n";
  };

  testTheCheckOfTheFleetAloneEvaluatesNoHost = {
    expr =
      lib.isString
        (mkUser {
          fleetConfigurations.default = {
            flakeCheck = "fleet";
            sharedSecrets.s = { };
            hosts.a = {
              system = x86;
              nixos = throw "a was evaluated";
            };
          };
        }).checks.${x86}.fleet-default-secrets.text;
    expected = true;
  };
}
