# The manifest of a host, and the units that install what is in it.
{
  lib,
  ...
}@context:
let
  inherit (import ../secret-fleets.nix context)
    commit
    fleet
    hosts
    manifest
    meta
    onA
    password
    state
    user
    wireguard
    ;
in
{
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
}
