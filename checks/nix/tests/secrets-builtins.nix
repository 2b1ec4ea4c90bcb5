# The generators of fleet: their parts, their data, their programs, and what they ask.
{
  lib,
  nixpkgs,
  ...
}@context:
let
  inherit (import ../secret-generators.nix context)
    programOf
    public
    sealed
    secret
    secrets
    spec
    textOf
    x86
    ;
in
{
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
}
