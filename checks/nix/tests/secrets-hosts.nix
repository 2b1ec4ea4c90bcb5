# Secrets of hosts: what modules get of them, which of them are shared, and what one host reads of another.
{
  lib,
  mkUser,
  ...
}@context:
let
  inherit (import ../secret-fleets.nix context)
    authority
    commit
    error
    fleet
    hosts
    mesh
    onA
    onlyMayBeEvaluated
    password
    secretsOfA
    state
    user
    wireguard
    x86
    ;
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
}
