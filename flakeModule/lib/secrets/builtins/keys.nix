# Keys and key pairs.
{
  lib,
  make,
  pkgs,
  words,
}:
let
  inherit (make) public sealed;
  inherit (words) flag one;
  inherit (lib) escapeShellArg optionalString;

  generator = make.builtin pkgs;

  # A key pair's public half that is not text is bytes.
  encoded = encoding: type: public (if encoding == null || encoding == "raw" then "binary" else type);
in
{
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
}
