# What records say of secrets, what is missing, what `nix flake check` runs, and what a damaged state does.
{
  lib,
  mkUser,
  ...
}@context:
let
  inherit (import ../secret-fleets.nix context)
    authority
    error
    fleet
    hosts
    meta
    onA
    password
    secretsOfA
    state
    wireguard
    x86
    ;
in
{
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
      health = { };
      missing = [ ];
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
      health = { };
      missing = [ ];
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

  # A state that is damaged: the secret is one that the host misses, so that the program, which knows what is wrong with it, can be asked; what
  # needs its value says it.
  testADamagedSecretHidesNoOther = {
    expr =
      let
        inherit
          ((onA {
            secrets = {
              conflict.generator = password;
              emptied.generator = password;
              db.generator = password;
            };
          }).record
          )
          specs
          ;
      in
      {
        inherit (specs) missing;
        declared = lib.attrNames specs.secrets;
      };
    expected = {
      missing = [
        "host/a/conflict"
        "host/a/emptied"
      ];
      declared = [
        "conflict"
        "db"
        "emptied"
      ];
    };
  };
  testConflictMarkers = error "secrets/host/a/conflict/meta.json has git's conflict markers" (
    (onA { secrets.conflict.generator = password; }).nixos.config.secrets.conflict.secretPath
  );
  testConflictMarkersNameTheCommand = error "Take one side of it: nix run \\.#secrets -- resolve" (
    (onA { secrets.conflict.generator = password; }).nixos.config.secrets.conflict.secretPath
  );
  testAnEmptyFile = error "secrets/host/a/emptied/meta.json is empty" (
    (onA { secrets.emptied.generator = password; }).nixos.config.secrets.emptied.secretPath
  );
  testADamagedFileIsNamed = error "secrets/host/a/cut/meta.json is no JSON object, or was cut" (
    (fleet {
      stateDir = ../fixtures/cut-state;
      hosts.a.nixos.secrets.cut.generator = password;
    }).hosts.a.nixos.config.secrets.cut.secretPath
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
