# Shared secrets of a fleet: what a plan says of them, what is checked of them, and what they cost who has none.
{
  lib,
  mkFleet,
  mkUser,
  ...
}:
let
  x86 = "x86_64-linux";

  hosts = {
    hosts.a = {
      system = x86;
      tags = [ "web" ];
    };
    hosts.b = {
      system = x86;
      tags = [ "web" ];
    };
    hosts.c.system = "aarch64-linux";
  };

  fleet =
    module:
    mkFleet {
      imports = [
        hosts
        module
      ];
    };

  secret = declaration: (fleet { sharedSecrets.s = declaration; }).plan.sharedSecrets.s;

  error = msg: module: {
    expr = (fleet module).plan;
    expectedError = {
      type = "ThrownError";
      inherit msg;
    };
  };

  password = { mkPassword }: mkPassword { };

  # Two secrets that are made from each other, by way of a third.
  circular = {
    sharedSecrets = lib.mapAttrs (_: needs: {
      generator =
        { mkSecretGenerator }:
        mkSecretGenerator {
          script = "true";
          dependencies = needs;
        };
    }) {
      one = [ "two" ];
      two.alias = "shared/three";
      three = [ "one" ];
      aside = [ "one" ];
    };
  };
in
{
  testASecretThatAPersonGives = {
    expr = secret { expectedOwners = [ "a" ]; };
    expected = {
      owners = [ "a" ];
      generator = null;
      parts = null;
      regenerateOnOwnerAdded = false;
      regenerateOnOwnerRemoved = false;
      onGeneratorChange = "regenerate";
      onDependencyChange = "regenerate";
    };
  };

  testTagsExpandToSortedOwners = {
    expr =
      (secret {
        expectedOwners = [
          "c"
          "@web"
          "a"
        ];
      }).owners;
    expected = [
      "a"
      "b"
      "c"
    ];
  };

  testTagsOfFleetsExpandToo = {
    expr =
      map (tag: (secret { expectedOwners = [ tag ]; }).owners) [
        "@all"
        "@system/aarch64-linux"
      ];
    expected = [
      [
        "a"
        "b"
        "c"
      ]
      [ "c" ]
    ];
  };

  testOwnersOfSeveralModulesAddUp = {
    expr =
      (fleet {
        imports = [
          { sharedSecrets.s.expectedOwners = [ "b" ]; }
          { sharedSecrets.s.expectedOwners = [ "a" ]; }
        ];
      }).plan.sharedSecrets.s.owners;
    expected = [
      "a"
      "b"
    ];
  };

  testOwnersRemovedFollowOwnersAdded = {
    expr = map (declaration: (secret declaration).regenerateOnOwnerRemoved) [
      { }
      { regenerateOnOwnerAdded = true; }
      {
        regenerateOnOwnerAdded = true;
        regenerateOnOwnerRemoved = false;
      }
    ];
    expected = [
      false
      true
      false
    ];
  };

  testTheNewerNameIsTheSameOption = {
    expr =
      let
        inherit
          (fleet {
            secrets.s = {
              expectedOwners = [ "a" ];
              generator = password;
            };
            sharedSecrets.t.expectedOwners = [ "b" ];
          })
          plan
          config
          ;
      in
      {
        owners = lib.mapAttrs (_: s: s.owners) plan.sharedSecrets;
        seen = lib.attrNames config.secrets;
      };
    expected = {
      owners = {
        s = [ "a" ];
        t = [ "b" ];
      };
      seen = [
        "s"
        "t"
      ];
    };
  };

  testDeclaredPartsComeBeforeTheGenerators = {
    expr =
      (secret {
        generator = password;
        parts = {
          secret = { };
          version = {
            encrypted = false;
            pattern = "v[0-9]+";
          };
          cert = {
            encrypted = false;
            type = "x509";
          };
          word.encrypted = false;
        };
      }).parts;
    expected = {
      secret = {
        encrypted = true;
        type = "";
        pattern = "";
      };
      version = {
        encrypted = false;
        type = "regex";
        pattern = "v[0-9]+";
      };
      cert = {
        encrypted = false;
        type = "x509";
        pattern = "";
      };
      word = {
        encrypted = false;
        type = "text";
        pattern = "";
      };
    };
  };

  testWhatChangesDo = {
    expr = map (declaration: (secret declaration).onGeneratorChange) [
      { generator = password; }
      { generator = { mkSecretGenerator }: mkSecretGenerator "true"; }
      {
        generator = { mkSecretGenerator }: mkSecretGenerator "true";
        onGeneratorChange = "regenerate";
      }
      {
        generator = password;
        onGeneratorChange = "notice";
      }
    ];
    expected = [
      "regenerate"
      "notice"
      "regenerate"
      "notice"
    ];
  };

  testDependenciesAreIds = {
    expr =
      (fleet {
        sharedSecrets.ca = { };
        sharedSecrets.leaf.generator =
          { mkSecretGenerator }:
          mkSecretGenerator {
            script = "true";
            dependencies = {
              authority = "ca";
              same = "shared/ca";
              other = "host/a/key";
            };
          };
      }).plan.sharedSecrets.leaf.generator.dependencies;
    expected = {
      authority = "shared/ca";
      same = "shared/ca";
      other = "host/a/key";
    };
  };

  testThePlanIsPlainData = {
    expr =
      builtins.hasContext (
        builtins.toJSON
          (fleet {
            sharedSecrets.s.generator =
              { mkSecretGenerator, coreutils }:
              mkSecretGenerator {
                script = "${coreutils}/bin/true";
                generationData = "${coreutils}";
              };
          }).plan
      );
    expected = false;
  };

  # Fleet's own generators are found without packages.
  testBuiltInGeneratorsForceNoNixpkgs = {
    expr =
      (mkUser {
        inputs.nixpkgs = throw "nixpkgs";
        fleetConfigurations.default = {
          hosts.a.system = x86;
          sharedSecrets.s.generator = password;
        };
      }).fleetConfigurations.default.plan.sharedSecrets.s.generator.data.generator;
    expected = "mkPassword";
  };

  testReadingThePlanForcesNoHostsModules = {
    expr =
      (fleet {
        nixos = throw "modules of all hosts";
        sharedSecrets.s = {
          expectedOwners = [ "@all" ];
          generator = password;
        };
      }).plan.sharedSecrets.s.owners;
    expected = [
      "a"
      "b"
      "c"
    ];
  };

  testProgramsAreThereForEverySystem = {
    expr =
      let
        generators =
          (fleet {
            sharedSecrets.s.generator = password;
            sharedSecrets.asked.generator = { mkAskPassword }: mkAskPassword { };
            sharedSecrets.given = { };
          }).generators;
        one = generators.aarch64-linux.shared.s;
      in
      {
        names = lib.attrNames generators.${x86}.shared;
        different = one.drvPath != generators.${x86}.shared.s.drvPath;
        drv = lib.hasSuffix ".drv" one.drvPath;
        program = lib.hasSuffix "/bin/generate" one.program;
        context = builtins.hasContext (builtins.toJSON one);
      };
    expected = {
      names = [ "s" ];
      different = true;
      drv = true;
      program = true;
      context = false;
    };
  };

  testASystemWithoutPackagesIsToldOf = {
    expr = (fleet { sharedSecrets.s.generator = password; }).generators.riscv64-linux.shared.s.drvPath;
    expectedError = {
      type = "ThrownError";
      msg = "A generator is to run on riscv64-linux, and nixpkgs\\.buildUsing has no packages for it";
    };
  };

  # Checks: names, owners, hosts, parts, dependencies.
  testANameThatIsNone = error "sharedSecrets\\.\"a/b\": the name is no name of a secret" {
    sharedSecrets."a/b" = { };
  };
  testANameWithDotsOnly = error "sharedSecrets\\.\"\\.\\.\": the name is no name of a secret" { sharedSecrets.".." = { }; };
  testANameThatNixTakesForSomethingElse = error "sharedSecrets\\.outPath: the name is no name" { sharedSecrets.outPath = { }; };
  testANameWithALineBreak = error "\\[secret-name/" { sharedSecrets."a\nb" = { }; };
  testAnUnknownOwner = error "sharedSecrets\\.s\\.expectedOwners has \"d\", and the fleet has no host of that name" {
    sharedSecrets.s.expectedOwners = [ "d" ];
  };
  testAnUnknownOwnerCannotBeIgnored = error "This one cannot be ignored, though ignore is set" {
    sharedSecrets.s.expectedOwners = [ "d" ];
    checks."secret-owner/s/d".ignore = true;
  };
  testAnUnknownTag = error "Correct the tag, or give it to a host: hosts\\.<name>\\.tags = \\[ \"db\" \\];" {
    sharedSecrets.s.expectedOwners = [ "@db" ];
  };
  testAnUnknownTagCanBeIgnored = {
    expr =
      (fleet {
        sharedSecrets.s.expectedOwners = [
          "@db"
          "a"
        ];
        checks."secret-owner/s/@db".ignore = true;
      }).plan.sharedSecrets.s.owners;
    expected = [ "a" ];
  };
  testAHostThatIsNoneToRunOn = error "sharedSecrets\\.s\\.generator runs on \"hsm\" \\(impureOn\\), and the fleet has no host of that name" {
    sharedSecrets.s.generator = { mkImpureSecretGenerator }: mkImpureSecretGenerator "true" "hsm";
  };
  testAPartWithAReservedName = error "sharedSecrets\\.s: its part \"owner\" cannot have this name, which means something else" {
    sharedSecrets.s.parts.owner = { };
  };
  testAPartWithAStrangeName = error "its part \"a b\" cannot have this name\\." { sharedSecrets.s.parts."a b" = { }; };
  testAnUnknownDependency = error "sharedSecrets\\.s\\.generator depends on shared/ca, and there is no such secret" {
    sharedSecrets.s.generator = { mkX509Leaf }: mkX509Leaf { ca = "ca"; };
  };
  testAnUnknownHostOfADependency = error "depends on host/z/ca, and there is no such secret" {
    sharedSecrets.s.generator = { mkX509Leaf }: mkX509Leaf { ca = "host/z/ca"; };
  };
  testACircleIsNamed = error "in a circle: shared/one → shared/two → shared/three → shared/one\\." circular;
  testASecretThatNeedsItself = error "in a circle: shared/s → shared/s\\." {
    sharedSecrets.s.generator = { mkX509Leaf }: mkX509Leaf { ca = "s"; };
  };

  # What the options refuse.
  testASecretsModeGivesOthersNothing = {
    expr = (fleet { sharedSecrets.s.mode = "0444"; }).config.sharedSecrets.s.mode;
    expectedError = {
      type = "ThrownError";
      msg = "sharedSecrets\\.s\\.mode.*mode in octal that gives others nothing";
    };
  };
  testAnEncryptedPartHasNoType = error "Set encrypted = false; for a part that everybody may read" {
    sharedSecrets.s.parts.p.type = "x509";
  };
  testAGeneratorIsAFunction = error "sharedSecrets\\.s\\.generator.*function that returns a generator" {
    sharedSecrets.s.generator = "shared";
  };
  testAnUnknownTypeOfAPart = error "sharedSecrets\\.s\\.parts\\.p\\.type.*one of \"text\", \"x509\"" {
    sharedSecrets.s.parts.p = {
      encrypted = false;
      type = "jpeg";
    };
  };
  testAMisspelledOptionOfASecret = error "sharedSecrets\\.s\\.expectedOwner.* does not exist" {
    sharedSecrets.s.expectedOwner = [ ];
  };

  # The state, as far as it concerns a fleet.
  testAStateOfANewerFormat = error "The state says that it has format \"2\"" { stateDir = ../fixtures/newer-state; };
  testAPinnedKeyThatIsAnother = error "hosts\\.a: the state has pinned the key ssh-ed25519 AAAAC3Nza.*which is none of deploy\\.hostKeys" {
    stateDir = ../fixtures/state;
    hosts.a.deploy.hostKeys = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f" ];
  };
  testAPinnedKeyThatIsTheSame = {
    expr =
      (fleet {
        stateDir = ../fixtures/state;
        hosts.a.deploy.hostKeys = [
          "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIgrguf0j0bYr/iFlaMwtqoU7iMcq0jM9Rgi8mSkslLs a comment"
        ];
      }).plan.hosts.a.address or "a plan";
    expected = "a plan";
  };
  testTheStateIsBesideTheFlakesFiles = {
    expr = (mkUser { fleetConfigurations.staging = { }; }).fleetConfigurations.staging.config.stateDir;
    expected = "/user/fleet-state/staging";
  };
}
