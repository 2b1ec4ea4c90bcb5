# The generators of fleet, as functions of the packages that their programs are made from. docs/reference/options.md has the comments.
{ lib }:
pkgs:
let
  make = import ./make.nix { inherit lib; };
  inherit (make) ask public sealed;
  inherit (lib) escapeShellArg optionalString;

  generator = make.builtin pkgs;
  json = value: escapeShellArg (builtins.toJSON value);
  flag = name: value: optionalString (value != null) " --${name}=${escapeShellArg (toString value)}";

  # A key pair's public half that is not text is bytes.
  encoded = encoding: type: public (if encoding == null || encoding == "raw" then "binary" else type);

  bytes =
    {
      count,
      encoding,
      noNuls,
    }@arguments:
    generator {
      name = "mkBytes";
      inherit arguments;
      parts.secret = sealed;
      script = "gh generate bytes -o \"$out/secret\" --count=${toString count}${flag "encoding" encoding}${optionalString noNuls " --no-nuls"}\n";
    };

  keyTypes = [
    "ed25519"
    "ecdsa-p256"
    "ecdsa-p384"
    "rsa-2048"
    "rsa-4096"
  ];

  one =
    function: argument: allowed: value:
    if lib.elem value allowed then
      value
    else
      throw ''
        ${function}: ${argument} is ${builtins.toJSON value}, which is none of ${lib.concatStringsSep ", " allowed}.
        Give it one of these.
      '';

  self = {
  /**
    A random password of printable characters, as the part `secret`. `noSymbols` leaves letters and digits.

    Type:   { size ? 32, noSymbols ? false } -> Generator
  */
  mkPassword =
    {
      size ? 32,
      noSymbols ? false,
    }:
    generator {
      name = "mkPassword";
      arguments = { inherit size noSymbols; };
      parts.secret = sealed;
      script = "gh generate password -o \"$out/secret\" --size=${toString size}${optionalString noSymbols " --no-symbols"}\n";
    };

  /**
    A random password as the part `secret`, and what users' accounts need of it as the part `hash`: `"yescrypt"` or `"bcrypt"`. Both parts are
    encrypted. `cost` is that of bcrypt.

    Type:   { size ? 32, noSymbols ? false, hash ? "yescrypt", cost ? null } -> Generator
  */
  mkPasswordHash =
    {
      size ? 32,
      noSymbols ? false,
      hash ? "yescrypt",
      cost ? null,
    }:
    generator {
      name = "mkPasswordHash";
      arguments = {
        inherit size noSymbols cost;
        hash = one "mkPasswordHash" "hash" [ "bcrypt" "yescrypt" ] hash;
      };
      parts = {
        secret = sealed;
        hash = sealed;
      };
      # What the tests' packages do not have is taken from the machine.
      path = lib.optional (hash == "yescrypt" && pkgs ? mkpasswd) pkgs.mkpasswd;
      script = ''
        gh generate password -o "$out/secret" --size=${toString size}${optionalString noSymbols " --no-symbols"}
        gh hash ${hash} -i "$out/secret" -o "$out/hash"${flag "cost" cost}
      '';
    };

  /**
    An Ed25519 key pair, as the parts `secret` and `public`. The secret part also holds the public key, 64 bytes together, unless
    `noEmbedPublic` is set. `encoding` is null (raw), `"raw"`, `"base64"` or `"hex"`.

    Type:   { noEmbedPublic ? false, encoding ? null } -> Generator
  */
  mkEd25519 =
    {
      noEmbedPublic ? false,
      encoding ? null,
    }:
    generator {
      name = "mkEd25519";
      arguments = { inherit noEmbedPublic encoding; };
      parts = {
        secret = sealed;
        public = encoded encoding "text";
      };
      script = "gh generate ed25519 -p \"$out/public\" -s \"$out/secret\"${optionalString noEmbedPublic " --no-embed-public"}${flag "encoding" encoding}\n";
    };

  /**
    An X25519 key pair, as the parts `secret` and `public`. `encoding` is null (raw), `"raw"`, `"base64"` or `"hex"`.

    Type:   { encoding ? null } -> Generator
  */
  mkX25519 =
    {
      encoding ? null,
    }:
    generator {
      name = "mkX25519";
      arguments = { inherit encoding; };
      parts = {
        secret = sealed;
        public = encoded encoding (if encoding == "base64" then "wireguard-key" else "text");
      };
      script = "gh generate x25519 -p \"$out/public\" -s \"$out/secret\"${flag "encoding" encoding}\n";
    };

  /**
    An RSA key pair of `size` bits in PEM, as the parts `secret` and `public`.

    Type:   { size ? 4096 } -> Generator
  */
  mkRsa =
    {
      size ? 4096,
    }:
    generator {
      name = "mkRsa";
      arguments = { inherit size; };
      parts = {
        secret = sealed;
        public = public "text";
      };
      script = "gh generate rsa -p \"$out/public\" -s \"$out/secret\" --bits=${toString size}\n";
    };

  /**
    `count` random bytes, as the part `secret`, in the encoding `"raw"`, `"base64"` or `"hex"`. `noNuls` leaves out zero bytes, which some
    programs take for the end.

    Type:   { count ? 32, encoding ? "raw", noNuls ? false } -> Generator
  */
  mkBytes =
    {
      count ? 32,
      encoding ? "raw",
      noNuls ? false,
    }:
    bytes { inherit count encoding noNuls; };

  /**
    `mkBytes` in hexadecimal.

    Type:   { count ? 32, noNuls ? false } -> Generator
  */
  mkHexBytes =
    {
      count ? 32,
      noNuls ? false,
    }:
    bytes {
      inherit count noNuls;
      encoding = "hex";
    };

  /**
    `mkBytes` in base64.

    Type:   { count ? 32, noNuls ? false } -> Generator
  */
  mkBase64Bytes =
    {
      count ? 32,
      noNuls ? false,
    }:
    bytes {
      inherit count noNuls;
      encoding = "base64";
    };

  /**
    An SSH key pair, as the parts `secret` (OpenSSH's format, no passphrase) and `public` (a line of authorized_keys). `type` is
    `"ed25519"`, `"rsa"` or `"ecdsa"`; `bits` is for the last two.

    Type:   { type ? "ed25519", bits ? null, comment ? "" } -> Generator
  */
  mkSshKey =
    {
      type ? "ed25519",
      bits ? null,
      comment ? "",
    }:
    generator {
      name = "mkSshKey";
      arguments = {
        inherit bits comment;
        type = one "mkSshKey" "type" [ "ed25519" "rsa" "ecdsa" ] type;
      };
      parts = {
        secret = sealed;
        public = public "ssh-key";
      };
      script = "gh generate ssh -p \"$out/public\" -s \"$out/secret\" --type=${type}${flag "bits" bits}${
        optionalString (comment != "") (flag "comment" comment)
      }\n";
    };

  /**
    A WireGuard key pair, as the parts `secret` and `public`.

    Type:   { } -> Generator
  */
  mkWireguard =
    { }:
    generator {
      name = "mkWireguard";
      arguments = { };
      parts = {
        secret = sealed;
        public = public "wireguard-key";
      };
      script = "gh generate wireguard -p \"$out/public\" -s \"$out/secret\"\n";
    };

  /**
    A WireGuard pre-shared key, as the part `secret`.

    Type:   { } -> Generator
  */
  mkWireguardPsk =
    { }:
    generator {
      name = "mkWireguardPsk";
      arguments = { };
      parts.secret = sealed;
      script = "gh generate wireguard-psk -o \"$out/secret\"\n";
    };

  /**
    A certificate authority: its key as the part `secret`, its certificate as the part `public`. `subject` has the usual names, `key` is one
    of `"ed25519"`, `"ecdsa-p256"`, `"ecdsa-p384"`, `"rsa-2048"`, `"rsa-4096"`. The secret expires with the certificate.

    Type:   { subject, key ? "ecdsa-p256", days ? 3650 } -> Generator
    Example: mkX509Ca { subject.CN = "Example root"; }
  */
  mkX509Ca =
    {
      subject,
      key ? "ecdsa-p256",
      days ? 3650,
    }:
    generator {
      name = "mkX509Ca";
      arguments = {
        inherit subject days;
        key = one "mkX509Ca" "key" keyTypes key;
      };
      parts = {
        secret = sealed;
        public = public "x509";
      };
      script = "gh x509 ca -p \"$out/public\" -s \"$out/secret\" --key=${key} --subject=${json subject} --days=${toString days}\n";
    };

  /**
    A certificate that a secret made by `mkX509Ca` signs: its key as the part `secret`, the certificate as the part `public`. `ca` is the name of
    that secret, `sans` are names and addresses as `"DNS:…"`, `"IP:…"`, `"URI:…"`, `"email:…"`. It is made anew when the authority is.

    Type:   { ca, subject ? { }, sans ? [ ], key ? "ecdsa-p256", days ? 365, client ? false, server ? true } -> Generator
    Example: mkX509Leaf { ca = "ca"; subject.CN = "db"; sans = [ "DNS:db.example.org" ]; }
  */
  mkX509Leaf =
    {
      ca,
      subject ? { },
      sans ? [ ],
      key ? "ecdsa-p256",
      days ? 365,
      client ? false,
      server ? true,
    }:
    generator {
      name = "mkX509Leaf";
      arguments = {
        inherit
          ca
          subject
          sans
          days
          client
          server
          ;
        key = one "mkX509Leaf" "key" keyTypes key;
      };
      parts = {
        secret = sealed;
        public = public "x509";
      };
      dependencies = { inherit ca; };
      script = "gh x509 leaf -p \"$out/public\" -s \"$out/secret\" --key=${key} --subject=${json subject} --san=${json sans} --days=${toString days} --ca-cert=\"$FLEET_DEPS/ca/public\" --ca-key=\"$FLEET_DEPS/ca/secret\"${optionalString client " --client"}${optionalString server " --server"}\n";
    };

  /**
    An age identity as the part `secret`, its recipient as the part `public`.

    Type:   { } -> Generator
  */
  mkAgeKey =
    { }:
    generator {
      name = "mkAgeKey";
      arguments = { };
      parts = {
        secret = sealed;
        public = public "text";
      };
      script = "gh generate age -p \"$out/public\" -s \"$out/secret\"\n";
    };

  /**
    A key pair that signs Nix store paths, as the parts `secret` and `public`. `name` is what stands before the colon in both.

    Type:   { name } -> Generator
  */
  mkNixSigningKey =
    { name }:
    generator {
      name = "mkNixSigningKey";
      arguments = { inherit name; };
      parts = {
        secret = sealed;
        public = public "text";
      };
      script = "gh generate nix-key -p \"$out/public\" -s \"$out/secret\" --name=${escapeShellArg name}\n";
    };

  /**
    A line that a person is asked for on the terminal, without echo.

    Type:   { prompt ? "Secret value", part ? "secret" } -> Generator
  */
  mkAskPassword =
    {
      prompt ? "Secret value",
      part ? "secret",
    }:
    ask {
      from = "terminal";
      inherit prompt part;
    };

  /**
    Another name of `mkAskPassword`.

    Type:   { prompt ? "Secret value", part ? "secret" } -> Generator
  */
  mkAskPass = self.mkAskPassword;

  /**
    A file that a person is asked for. `header` is what the person reads.

    Type:   { header ? "", part ? "secret" } -> Generator
  */
  mkAskFile =
    {
      header ? "",
      part ? "secret",
    }:
    ask {
      from = "file";
      prompt = if header == "" then "File with the secret value" else header;
      inherit part;
    };

  /**
    The value of an environment variable of the operator's: `variable`. With `variables` in its place, a file with a line `NAME=value` for
    each of them, which a person is asked for.

    Type:   { variable ? null, variables ? [ ], header ? "", prompt ? "", part ? "secret" } -> Generator
  */
  mkAskEnv =
    {
      variable ? null,
      variables ? [ ],
      header ? "",
      prompt ? header,
      part ? "secret",
    }:
    if variable != null then
      ask {
        from = "env";
        inherit part variable;
        prompt = if prompt == "" then "Value of ${variable}" else prompt;
      }
    else
      self.mkAskFile {
        header =
          optionalString (prompt != "") "${prompt}\n"
          + "File with the lines ${lib.concatMapStringsSep ", " (name: "${name}=…") variables}";
        inherit part;
      };

  /**
    A generator of your own. The script writes parts into `$out`: what is piped through `gh private` or `encrypt` is encrypted, what is piped
    through `gh public` is not. It runs in a sandbox on the operator's machine, without network (`sandbox` is `"strict"`, `"network"` or `"none"`).
    `parts.<name>.encrypted` declares what comes out. `dependencies` are names of other secrets, which are files `$FLEET_DEPS/<name>/<part>`.
    `generationData` is what a new value is made for when it changes. A script alone will do, too.

    Type:   { script, parts ? null, generationData ? null, dependencies ? { }, sandbox ? "strict", runtimeInputs ? [ ], impureOn ? null } -> Generator
    Example: mkSecretGenerator { script = "date | gh private -o $out/secret"; parts.secret.encrypted = true; }
  */
  mkSecretGenerator = make.mkSecretGenerator pkgs;

  /**
    As `mkSecretGenerator`, with the host that the script runs on as `impureOn`: as the user who logs in there, with that user's PATH and, unless
    `sandbox` says otherwise, without a sandbox. It can also be called with the script and the host: `mkImpureSecretGenerator "…" "hsm-1"`.

    Type:   { script, impureOn ? null, … } -> Generator
  */
  mkImpureSecretGenerator = make.mkImpureSecretGenerator pkgs;
  };
in
self
