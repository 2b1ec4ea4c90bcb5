# Generators: how they are called, what is refused, and what of a call is data.
{
  lib,
  mkFleet,
  nixpkgs,
  ...
}@context:
let
  inherit (import ../secret-generators.nix context)
    certificate
    error
    fleet
    public
    sealed
    secret
    secrets
    spec
    withOverlay
    x86
    ;
in
{
  testWhatAPlanSaysOfABuiltIn = {
    expr = spec ({ mkPassword }: mkPassword { size = 40; });
    expected = {
      kind = "script";
      on = null;
      sandbox = "strict";
      data = {
        generator = "mkPassword";
        size = 40;
        noSymbols = false;
      };
      seed = null;
      dependencies = { };
      ask = null;
    };
  };

  testFunctionsOfFleetLibAreTheSame = {
    expr =
      let
        viaLib =
          (mkFleet (
            { fleetLib, ... }:
            {
              sharedSecrets = lib.mapAttrs (_: generator: { inherit generator; }) {
                password = fleetLib.mkPassword { size = 40; };
                script = fleetLib.mkSecretGenerator { script = "true"; };
                one = fleetLib.mkImpureSecretGenerator {
                  script = "true";
                  impureOn = "hsm";
                };
                two = fleetLib.mkImpureSecretGenerator "true" "hsm";
              };
              hosts.hsm.system = x86;
            }
          )).plan.sharedSecrets;
        viaOverlay = lib.mapAttrs (_: secret) {
          password = { mkPassword }: mkPassword { size = 40; };
          script = { mkSecretGenerator }: mkSecretGenerator { script = "true"; };
          one =
            { mkImpureSecretGenerator }:
            mkImpureSecretGenerator {
              script = "true";
              impureOn = "hsm";
            };
          two = { mkImpureSecretGenerator }: mkImpureSecretGenerator "true" "hsm";
        };
      in
      {
        same = viaLib == viaOverlay;
        styles = viaLib.one == viaLib.two;
      };
    expected = {
      same = true;
      styles = true;
    };
  };

  testEveryBuiltInIsInFleetLib = {
    expr = lib.attrNames secrets.public;
    expected = [
      "mkAgeKey"
      "mkAskEnv"
      "mkAskFile"
      "mkAskPass"
      "mkAskPassword"
      "mkBase64Bytes"
      "mkBytes"
      "mkEd25519"
      "mkHexBytes"
      "mkImpureSecretGenerator"
      "mkNixSigningKey"
      "mkPassword"
      "mkPasswordHash"
      "mkRsa"
      "mkSecretGenerator"
      "mkSshKey"
      "mkWireguard"
      "mkWireguardPsk"
      "mkX25519"
      "mkX509Ca"
      "mkX509Leaf"
    ];
  };

  testBothStylesOfCalling = {
    expr = map (generator: removeAttrs (secret generator) [ "onDependencyChange" ]) [
      ({ mkImpureSecretGenerator }: mkImpureSecretGenerator "date" "hsm")
      (
        { mkImpureSecretGenerator }:
        mkImpureSecretGenerator {
          script = "date";
          impureOn = "hsm";
        }
      )
    ];
    expected =
      let
        one = {
          owners = [ ];
          generator = {
            kind = "script";
            on = "hsm";
            # On a host a generator runs as people wrote it, unless they ask for more.
            sandbox = "none";
            data = null;
            seed = builtins.hashString "sha256" "date";
            dependencies = { };
            ask = null;
          };
          parts = null;
          regenerateOnOwnerAdded = false;
          regenerateOnOwnerRemoved = false;
          onGeneratorChange = "notice";
        };
      in
      [
        one
        one
      ];
  };

  testNewArgumentsOfWrittenGenerators = {
    expr = secret (
      { mkSecretGenerator }:
      mkSecretGenerator {
        script = "true";
        parts = {
          secret.encrypted = true;
          public = {
            encrypted = false;
            type = "ssh-key";
          };
        };
        generationData = [
          1
          { a = "b"; }
        ];
        sandbox = "network";
        runtimeInputs = [ (throw "a package was looked at") ];
        allowDifferent = false;
      }
    );
    expected = {
      owners = [ ];
      generator = {
        kind = "script";
        on = null;
        sandbox = "network";
        data = [
          1
          { a = "b"; }
        ];
        seed = builtins.hashString "sha256" "true";
        dependencies = { };
        ask = null;
      };
      parts = {
        secret = sealed;
        public = public "ssh-key";
      };
      regenerateOnOwnerAdded = false;
      regenerateOnOwnerRemoved = false;
      onGeneratorChange = "notice";
      onDependencyChange = "regenerate";
    };
  };

  testAGeneratorWithoutNamedArgumentsGetsAllPackages = {
    expr = (spec (pkgs: pkgs.mkPassword { size = if pkgs ? coreutils then 7 else 8; })).data.size;
    expected = 7;
  };

  testArgumentsWithDefaultsCanBeMissing = {
    expr =
      (spec (
        {
          mkPassword,
          nothing ? 9,
        }:
        mkPassword { size = nothing; }
      )).data.size;
    expected = 9;
  };

  # Functions of users' overlays: what they are called with is data, and their script is noticed.
  testArgumentsOfOverlayFunctionsAreData = {
    expr = (certificate { sans = [ "DNS:a" ]; }).data;
    expected = {
      generator = "mkCertificate";
      arguments = [
        {
          subject.CN = "kubernetes";
          sans = [ "DNS:a" ];
        }
      ];
    };
  };

  testAChangedNameInACertificateIsOtherData = {
    expr = (certificate { sans = [ "DNS:a" ]; }).data == (certificate { sans = [ "DNS:b" ]; }).data;
    expected = false;
  };

  testWhereItRunsIsNoData = {
    expr =
      let
        here = withOverlay ({ readAuthority }: readAuthority { impureOn = "hsm"; });
      in
      {
        inherit (here.generator) data on;
        inherit (here) onGeneratorChange;
      };
    expected = {
      data = {
        generator = "readAuthority";
        arguments = [ { } ];
      };
      on = "hsm";
      onGeneratorChange = "notice";
    };
  };

  testFunctionsAndPackagesAreNoData = {
    expr =
      (certificate {
        subject = {
          CN = "a";
        };
        sans = [
          1
          "two"
        ];
        rest = [
          (x: x)
          nixpkgs.legacyPackages.${x86}.coreutils
          nixpkgs.legacyPackages.${x86}
          "three"
          ../fixtures/note.nix
        ];
      }).data.arguments;
    expected = [
      {
        subject.CN = "a";
        sans = [
          1
          "two"
        ];
        rest = [
          "three"
          "<file ${builtins.hashFile "sha256" ../fixtures/note.nix}>"
        ];
      }
    ];
  };

  testCurriedOverlayFunctions = {
    expr = (withOverlay ({ mkCurried }: mkCurried "x" { size = 3; })).generator.data;
    expected = {
      generator = "mkCurried";
      arguments = [
        "x"
        { size = 3; }
      ];
    };
  };

  testDataThatAFunctionGivesComesBeforeItsArguments = {
    expr = (withOverlay ({ mkGiven }: mkGiven { size = 3; })).generator.data;
    expected.size = 3;
  };

  testOverlayFunctionsOverBuiltIns = {
    expr =
      let
        s = withOverlay ({ mkOverBuiltIn }: mkOverBuiltIn { size = 3; });
      in
      {
        inherit (s.generator) data seed;
        inherit (s) onGeneratorChange;
      };
    expected = {
      data = {
        generator = "mkPassword";
        size = 3;
        noSymbols = false;
      };
      seed = null;
      onGeneratorChange = "regenerate";
    };
  };

  testOverlayFunctionsThatReturnNoGeneratorAreAsTheyAre = {
    expr = (withOverlay ({ mkTool, mkPassword }: mkPassword { size = mkTool "x"; })).generator.data.size;
    expected = "tool-x";
  };

  testOverlayFunctionsFromAllPackages = {
    expr = (withOverlay (pkgs: pkgs.mkCurried "x" { size = 3; })).generator.data.generator;
    expected = "mkCurried";
  };

  testAUsersFunctionOfABuiltInsNameIsTheUsers = {
    expr =
      (fleet {
        nixpkgs.overlays = [ (final: prev: { mkWireguard = { port }: prev.mkSecretGenerator "wg ${toString port}"; }) ];
        sharedSecrets.s.generator = { mkWireguard }: mkWireguard { port = 1; };
      }).plan.sharedSecrets.s.generator.data;
    expected = {
      generator = "mkWireguard";
      arguments = [ { port = 1; } ];
    };
  };

  # Mistakes.
  testAnUnknownNameIsToldOf = error "The generator of sharedSecrets\\.s asks for mkPasword, which neither the packages nor fleet have" (
    { mkPasword }: mkPasword { }
  );
  testAGeneratorThatReturnsSomethingElse = error "The generator of sharedSecrets\\.s returns no generator, but a value of type set" (
    { coreutils }: coreutils
  );
  testAGeneratorWithAnArgumentTooFew = error "returns a function: it was called with an argument too few" (
    { mkImpureSecretGenerator }: mkImpureSecretGenerator "true"
  );
  testABuiltInRefusesWhatItDoesNotHave = error "(unexpected argument 'sise'|sise)" ({ mkPassword }: mkPassword { sise = 1; });
  testAnUnknownKindOfKey = error "mkX509Ca: key is \"dsa\", which is none of ed25519, ecdsa-p256" (
    { mkX509Ca }:
    mkX509Ca {
      subject = { };
      key = "dsa";
    }
  );
  testAnUnknownHash = error "mkPasswordHash: hash is \"md5\", which is none of bcrypt, yescrypt" (
    { mkPasswordHash }: mkPasswordHash { hash = "md5"; }
  );
}
