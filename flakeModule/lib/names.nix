# What may be called how. Names end up in file names, unit names, command lines and JSON, so they allow what is harmless
# in all of them. evaluator/plan/names.go holds plans against rules that are no stricter than these.
{ lib }:
let
  inherit (lib) concatMapStrings elem stringToCharacters;
in
rec {
  /**
    The systems that a host can have. For each of them there is a helper.

    Type:   [String]
  */
  targetSystems = [
    "aarch64-linux"
    "armv6l-linux"
    "armv7l-linux"
    "riscv64-linux"
    "x86_64-linux"
  ];

  /**
    Names that a host cannot have: `operator` and `target` mean something else in `deploy.buildOn`, `local` means this machine in
    `deploy.address`, and Nix prints an attribute set with an attribute `outPath` as that attribute alone.

    Type:   [String]
  */
  reservedHosts = [
    "local"
    "operator"
    "outPath"
    "target"
  ];

  /**
    Whether a host can have this name. NixOS has the same rule for `networking.hostName`.

    Type:   String -> Bool
  */
  isHostName =
    name:
    builtins.match "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?" name != null
    && !elem name reservedHosts;

  /**
    Whether a fleet can have this name, which becomes part of the names of apps and checks.

    Type:   String -> Bool
  */
  isFleetName =
    name: builtins.match "[A-Za-z0-9][A-Za-z0-9_-]{0,62}" name != null && name != "outPath";

  /**
    Whether a secret can have this name: it becomes the name of a folder, and Nix takes attributes that begin with two underscores, and
    `outPath`, for something else. secretsgen/secret/name.go has the rule for files.

    Type:   String -> Bool
  */
  isSecretName =
    name:
    builtins.match "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}" name != null
    && builtins.match "__.*|outPath" name == null;

  /**
    Names that a part of a secret cannot have: files that mean something else in the output of a generator, and what
    `config.secrets.<name>` holds beside its parts.

    Type:   [String]
  */
  reservedParts = [
    "created_at"
    "credentials"
    "expires_at"
    "generator"
    "group"
    "marker"
    "mode"
    "neededForUsers"
    "onDependencyChange"
    "onGeneratorChange"
    "owner"
    "parts"
    "reloadUnits"
    "restartUnits"
    "secretPath"
  ];

  /**
    Whether a part of a secret can have this name.

    Type:   String -> Bool
  */
  isPartName = name: isSecretName name && !elem name reservedParts;

  /**
    One name in an option path, quoted where Nix needs it.

    Type:   String -> String
    Example: attr "a/b" => "\"a/b\""
  */
  attr =
    name:
    if builtins.match "[A-Za-z_][A-Za-z0-9_'-]*" name != null then
      name
    else
      "\"${
        concatMapStrings (
          c:
          if
            elem c [
              "\""
              "\\"
              "$"
            ]
          then
            "\\${c}"
          else
            c
        ) (stringToCharacters name)
      }\"";
}
