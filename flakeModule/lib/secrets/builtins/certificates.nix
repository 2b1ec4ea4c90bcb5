# X.509 certificates.
{
  lib,
  make,
  pkgs,
  words,
}:
let
  inherit (make) public sealed;
  inherit (words) json one;
  inherit (lib) optionalString;

  generator = make.builtin pkgs;

  keyTypes = [
    "ed25519"
    "ecdsa-p256"
    "ecdsa-p384"
    "rsa-2048"
    "rsa-4096"
  ];
in
{
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
}
