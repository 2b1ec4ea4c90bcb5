# Options that a shared secret and a host's own have in common.
{ lib }:
let
  inherit (lib) literalExpression mkOption;

  part = lib.types.submodule {
    options = {
      encrypted = mkOption {
        type = lib.types.bool;
        default = true;
        description = "Whether only the secret's owners can read the part. What is not encrypted is in git as it is.";
      };
      type = mkOption {
        type = lib.types.nullOr (
          lib.types.enum [
            "text"
            "x509"
            "ssh-key"
            "wireguard-key"
            "regex"
            "binary"
          ]
        );
        default = null;
        description = ''
          What a public part has to be before it gets into git: one printable line or PEM (`"text"`), PEM certificates, a line of authorized_keys, a WireGuard key,
          what `pattern` matches, or any bytes. Null is `"regex"` where there is a pattern, `"text"` otherwise.
        '';
      };
      pattern = mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        description = "What a public part of the type `\"regex\"` has to match as a whole, in the syntax of RE2.";
        example = "v[0-9]+";
      };
    };
  };
in
{
  /**
    What both declare.

    Type:   { <option> = Option }
  */
  declaration = {
    parts = mkOption {
      type = lib.types.nullOr (lib.types.attrsOf part);
      default = null;
      description = ''
        The parts that the secret has. Null takes what the generator declares, and where that declares nothing, whatever it makes. What is declared must come out, and
        nothing else may.
      '';
      example = literalExpression ''
        {
          secret.encrypted = true;
          public = { encrypted = false; type = "x509"; };
        }
      '';
    };

    onGeneratorChange = mkOption {
      type = lib.types.nullOr (
        lib.types.enum [
          "regenerate"
          "notice"
        ]
      );
      default = null;
      description = ''
        What a changed script does: a new value with the next `sync`, or a notice in `status`. Null is a notice for scripts that somebody wrote; for fleet's own generators
        only their arguments count, and other arguments always mean a new value. Updates of nixpkgs change no script.
      '';
      example = "regenerate";
    };

    onDependencyChange = mkOption {
      type = lib.types.enum [
        "regenerate"
        "keep"
      ];
      default = "regenerate";
      description = "What a new value of a secret that this one is made from does: a new value, or nothing.";
    };
  };
}
