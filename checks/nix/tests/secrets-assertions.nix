# What must hold of a host's secrets before its system is built.
{
  lib,
  ...
}@context:
let
  inherit (import ../secret-fleets.nix context)
    error
    errorOnA
    fleet
    hosts
    onA
    password
    secretsOfA
    user
    wireguard
    ;
in
{
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
}
