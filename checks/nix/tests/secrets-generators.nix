# Generators: how they are called, what of a call is data, what a seed is made from, and what programs they become.
{
  lib,
  canReadTheStore,
  mkFleet,
  mkUser,
  nixpkgs,
  tinyNixpkgs,
  ...
}:
let
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

  # The text of a generator's program, which the tiny nixpkgs keeps beside the derivation.
  programOf = name: arguments: (nixpkgs.legacyPackages.${x86}.appendOverlays [ (secrets.overlay) ]).${name} arguments;
  textOf = name: arguments: (programOf name arguments).package.text;
  secrets = (import ../../../flakeModule/lib { inherit lib; }).secrets;

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

  # What each built-in makes, and from which words.
  testPartsOfTheBuiltIns = {
    expr = lib.mapAttrs (name: arguments: lib.mapAttrs (_: p: p.type) (programOf name arguments).parts) {
      mkPassword = { };
      mkPasswordHash = { };
      mkEd25519 = { };
      mkX25519.encoding = "base64";
      mkRsa = { };
      mkBytes.encoding = "raw";
      mkHexBytes = { };
      mkBase64Bytes = { };
      mkSshKey = { };
      mkWireguard = { };
      mkWireguardPsk = { };
      mkX509Ca.subject = { };
      mkX509Leaf.ca = "ca";
      mkAgeKey = { };
      mkNixSigningKey.name = "cache";
    };
    expected = {
      mkPassword.secret = "";
      mkPasswordHash = {
        secret = "";
        hash = "";
      };
      mkEd25519 = {
        secret = "";
        public = "binary";
      };
      mkX25519 = {
        secret = "";
        public = "wireguard-key";
      };
      mkRsa = {
        secret = "";
        public = "text";
      };
      mkBytes.secret = "";
      mkHexBytes.secret = "";
      mkBase64Bytes.secret = "";
      mkSshKey = {
        secret = "";
        public = "ssh-key";
      };
      mkWireguard = {
        secret = "";
        public = "wireguard-key";
      };
      mkWireguardPsk.secret = "";
      mkX509Ca = {
        secret = "";
        public = "x509";
      };
      mkX509Leaf = {
        secret = "";
        public = "x509";
      };
      mkAgeKey = {
        secret = "";
        public = "text";
      };
      mkNixSigningKey = {
        secret = "";
        public = "text";
      };
    };
  };

  testDataOfTheBuiltIns = {
    expr = lib.mapAttrs (name: arguments: (programOf name arguments).data) {
      mkEd25519.encoding = "hex";
      mkHexBytes = { };
      mkBase64Bytes.count = 16;
      mkSshKey.comment = "me";
      mkX509Leaf = {
        ca = "ca";
        sans = [ "DNS:a" ];
      };
    };
    expected = {
      mkEd25519 = {
        generator = "mkEd25519";
        noEmbedPublic = false;
        encoding = "hex";
      };
      mkHexBytes = {
        generator = "mkBytes";
        count = 32;
        encoding = "hex";
        noNuls = false;
      };
      mkBase64Bytes = {
        generator = "mkBytes";
        count = 16;
        encoding = "base64";
        noNuls = false;
      };
      mkSshKey = {
        generator = "mkSshKey";
        type = "ed25519";
        bits = null;
        comment = "me";
      };
      mkX509Leaf = {
        generator = "mkX509Leaf";
        ca = "ca";
        subject = { };
        sans = [ "DNS:a" ];
        key = "ecdsa-p256";
        days = 365;
        client = false;
        server = true;
      };
    };
  };

  testProgramsOfTheBuiltIns = {
    expr = lib.mapAttrs textOf {
      mkPassword.noSymbols = true;
      mkPasswordHash = {
        hash = "bcrypt";
        cost = 12;
      };
      mkEd25519 = {
        noEmbedPublic = true;
        encoding = "base64";
      };
      mkX25519 = { };
      mkRsa = { };
      mkBytes.noNuls = true;
      mkSshKey = {
        type = "rsa";
        bits = 3072;
        comment = "it's me";
      };
      mkWireguard = { };
      mkWireguardPsk = { };
      mkX509Ca = {
        subject.CN = "it's";
        key = "ed25519";
      };
      mkX509Leaf = {
        ca = "ca";
        subject.CN = "a";
        sans = [ "IP:10.0.0.1" ];
        client = true;
      };
      mkAgeKey = { };
      mkNixSigningKey.name = "cache-1";
    };
    expected = lib.mapAttrs (_: text: "set -eu\n${text}\n") {
      mkPassword = "gh generate password -o \"$out/secret\" --size=32 --no-symbols";
      mkPasswordHash = "gh generate password -o \"$out/secret\" --size=32\ngh hash bcrypt -i \"$out/secret\" -o \"$out/hash\" --cost=12";
      mkEd25519 = "gh generate ed25519 -p \"$out/public\" -s \"$out/secret\" --no-embed-public --encoding=base64";
      mkX25519 = "gh generate x25519 -p \"$out/public\" -s \"$out/secret\"";
      mkRsa = "gh generate rsa -p \"$out/public\" -s \"$out/secret\" --bits=4096";
      mkBytes = "gh generate bytes -o \"$out/secret\" --count=32 --encoding=raw --no-nuls";
      mkSshKey = "gh generate ssh -p \"$out/public\" -s \"$out/secret\" --type=rsa --bits=3072 --comment='it'\\''s me'";
      mkWireguard = "gh generate wireguard -p \"$out/public\" -s \"$out/secret\"";
      mkWireguardPsk = "gh generate wireguard-psk -o \"$out/secret\"";
      mkX509Ca = "gh x509 ca -p \"$out/public\" -s \"$out/secret\" --key=ed25519 --subject='{\"CN\":\"it'\\''s\"}' --days=3650";
      mkX509Leaf = "gh x509 leaf -p \"$out/public\" -s \"$out/secret\" --key=ecdsa-p256 --subject='{\"CN\":\"a\"}' --san='[\"IP:10.0.0.1\"]' --days=365 --ca-cert=\"$FLEET_DEPS/ca/public\" --ca-key=\"$FLEET_DEPS/ca/secret\" --client --server";
      mkAgeKey = "gh generate age -p \"$out/public\" -s \"$out/secret\"";
      mkNixSigningKey = "gh generate nix-key -p \"$out/public\" -s \"$out/secret\" --name=cache-1";
    };
  };

  testWrittenProgramsHaveToolsAndTheirInputsFirst = {
    expr =
      let
        pkgs = nixpkgs.legacyPackages.${x86};
        inherit ((secrets.overlay pkgs pkgs)) mkSecretGenerator;
        text =
          (mkSecretGenerator {
            script = "date > $out/public";
            runtimeInputs = [ pkgs.gopls ];
          }).package.text;
        plain = builtins.unsafeDiscardStringContext;
      in
      {
        path = lib.hasInfix (plain "export PATH=${pkgs.gopls}/bin:${pkgs.coreutils}/bin\${PATH:+:$PATH}\n") (plain text);
        script = lib.hasSuffix "}\ndate > $out/public" text;
      };
    expected = {
      path = true;
      script = true;
    };
  };

  # Asking a person.
  testQuestions = {
    expr = lib.mapAttrs (_: generator: { inherit (secret generator) parts; inherit (spec generator) kind ask data; }) {
      password = { mkAskPassword }: mkAskPassword { prompt = "The PIN"; };
      pass = { mkAskPass }: mkAskPass { part = "pin"; };
      file = { mkAskFile }: mkAskFile { };
      env = { mkAskEnv }: mkAskEnv { variable = "TOKEN"; };
      lines =
        { mkAskEnv }:
        mkAskEnv {
          header = "Of the shop";
          variables = [
            "ID"
            "KEY"
          ];
        };
    };
    expected =
      let
        question = from: prompt: variable: {
          kind = "ask";
          data = null;
          ask = { inherit from prompt variable; };
          parts.secret = sealed;
        };
      in
      {
        password = question "terminal" "The PIN" "";
        pass = question "terminal" "Secret value" "" // {
          parts.pin = sealed;
        };
        file = question "file" "File with the secret value" "";
        env = question "env" "Value of TOKEN" "TOKEN";
        lines = question "file" "Of the shop\nFile with the lines ID=…, KEY=…" "";
      };
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

  # Seeds.
  testAnotherScriptIsAnotherSeed = {
    expr = seedOf "date" == seedOf "date +%s";
    expected = false;
  };

  testAnUpdateOfNixpkgsIsTheSameSeed = {
    expr = {
      same = seedWith nixpkgs (withTools "date") == seedWith updated (withTools "date");
      changed = seedWith nixpkgs (withTools "date") == seedWith nixpkgs (withTools "cat");
      pathsDiffer = nixpkgs.legacyPackages.${x86}.coreutils.outPath == updated.legacyPackages.${x86}.coreutils.outPath;
    };
    expected = {
      same = true;
      changed = false;
      pathsDiffer = false;
    };
  };

  testStorePathsAreMaskedWithHashAndName = {
    expr = secrets.masks.mask "/user" "a ${store "openssl-3.1"}/bin/x b ${store "other"} c";
    expected = "a <store>/bin/x b <store> c";
  };

  testWholeFlakesAreMasked = {
    expr = secrets.masks.mask (store "source") "cat ${store "source"}/no/such/file ${store "source"}";
    expected = "cat <flake /no/such/file> <flake >";
  };

  testGenerationDataIsMasked = {
    expr =
      (spec (
        { mkSecretGenerator, coreutils }:
        mkSecretGenerator {
          script = "true";
          generationData.tool = "${coreutils}/bin/date";
        }
      )).data.tool;
    expected = "<store>/bin/date";
  };

  testAScriptCanBeAFile = {
    expr = map seedOf [
      ../fixtures/note.nix
      (builtins.readFile ../fixtures/note.nix)
    ];
    expected = map (_: builtins.hashFile "sha256" ../fixtures/note.nix) [
      1
      2
    ];
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
// lib.optionalAttrs canReadTheStore {
  # A file that is copied by itself has its contents in its path; what is below the flake's own path is told by its contents.
  testFilesOfTheFlakeAreToldByTheirContents = {
    expr =
      let
        flake =
          name:
          builtins.path {
            path = ../fixtures;
            name = "source";
            filter = path: _: baseNameOf path != name;
          };
        one = flake "mistake.nix";
        two = flake "option.nix";
        masked = dir: secrets.masks.mask dir "cat ${dir}/note.nix ${dir}/readme";
        copied = secrets.masks.mask "/user" "run ${../fixtures/note.nix}";
      in
      {
        differ = one == two;
        same = masked one == masked two;
        changed = secrets.masks.mask one "${one}/option.nix" == secrets.masks.mask one "${one}/note.nix";
        copied = lib.hasSuffix "-note.nix" copied && lib.hasPrefix "run ${builtins.storeDir}/" copied;
        context = builtins.hasContext (masked one) || builtins.hasContext copied;
      };
    expected = {
      differ = false;
      same = true;
      changed = false;
      copied = true;
      context = false;
    };
  };
}
