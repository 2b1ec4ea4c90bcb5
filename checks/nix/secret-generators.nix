/**
  Generators for tests, and what such tests say again and again.

  Type:   Context -> { <helper> = … }
*/
{
  lib,
  mkFleet,
  mkUser,
  nixpkgs,
  ...
}:
rec {
  x86 = "x86_64-linux";

  fleet =
    module:
    mkFleet {
      imports = [ module ];
      hosts.hsm.system = x86;
    };

  secret = generator: (fleet { sharedSecrets.s = { inherit generator; }; }).plan.sharedSecrets.s;
  spec = generator: (secret generator).generator;

  error = msg: generator: {
    expr = secret generator;
    expectedError = {
      type = "ThrownError";
      inherit msg;
    };
  };

  # A generator, and the text of its program, which the tiny nixpkgs keeps beside the derivation.
  programOf = name: arguments: (nixpkgs.legacyPackages.${x86}.appendOverlays [ (secrets.overlay) ]).${name} arguments;
  textOf = name: arguments: (programOf name arguments).package.text;
  secrets = (import ../../flakeModule/lib { inherit lib; }).secrets;

  sealed = {
    encrypted = true;
    type = "";
    pattern = "";
  };
  public = type: {
    encrypted = false;
    inherit type;
    pattern = "";
  };

  # An overlay as users write them: functions over mkImpureSecretGenerator.
  certificates = {
    nixpkgs.overlays = [
      (
        final: prev:
        let
          inherit (final) lib;
        in
        {
          readAuthority =
            { impureOn }:
            final.mkImpureSecretGenerator ''
              cat ca.crt > $out/public
            '' impureOn;
          mkCertificate =
            {
              subject,
              sans ? [ ],
              rest ? [ ],
              impureOn,
            }:
            final.mkImpureSecretGenerator ''
              issue "${lib.concatStrings (lib.mapAttrsToList (k: v: "/${k}=${v}") subject)}" ${toString sans}
            '' impureOn;
          mkCurried = name: { size }: final.mkSecretGenerator "make ${name} ${toString size}";
          mkGiven =
            { size }:
            final.mkSecretGenerator {
              script = "make";
              generationData = { inherit size; };
            };
          mkOverBuiltIn = { size }: final.mkPassword { inherit size; };
          mkTool = word: "tool-${word}";
        }
      )
    ];
  };

  withOverlay =
    generator:
    (fleet {
      imports = [ certificates ];
      sharedSecrets.s = { inherit generator; };
    }).plan.sharedSecrets.s;

  certificate =
    more:
    (withOverlay (
      { mkCertificate }:
      mkCertificate (
        {
          subject.CN = "kubernetes";
          impureOn = "hsm";
        }
        // more
      )
    )).generator;

  seedOf = text: (spec ({ mkSecretGenerator }: mkSecretGenerator text)).seed;
  seedWith =
    nixpkgs: generator:
    (mkUser {
      fleetConfigurations.default = {
        nixpkgs.buildUsing = nixpkgs;
        sharedSecrets.s = { inherit generator; };
      };
    }).fleetConfigurations.default.plan.sharedSecrets.s.generator.seed;

  # The same package from another nixpkgs: another store path.
  updated = nixpkgs // {
    legacyPackages = lib.mapAttrs (
      _: packages:
      packages.appendOverlays [
        (final: prev: {
          coreutils = derivation {
            name = "coreutils-99";
            inherit (final.stdenv.hostPlatform) system;
            builder = "/bin/another";
          };
        })
      ]
    ) nixpkgs.legacyPackages;
  };

  withTools =
    word: { mkSecretGenerator, coreutils }: mkSecretGenerator { script = "${coreutils}/bin/${word}"; };

  store = name: "${builtins.storeDir}/${lib.concatStrings (lib.genList (_: "0") 32)}-${name}";
}
