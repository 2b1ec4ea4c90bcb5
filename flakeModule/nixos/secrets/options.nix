# The option `secrets`, and what modules read of it.
{
  config,
  fleetSecretOptions,
  fleetSecrets,
  fleetTypes,
  host,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    literalExpression
    mapAttrs
    mkOption
    types
    ;

  primaryGroup =
    owner:
    let
      group = config.users.users.${owner}.group or "";
    in
    if group == "" then "root" else group;

  secret =
    { config, ... }:
    {
      options = fleetSecretOptions.declaration // {
        generator = mkOption {
          type = types.nullOr fleetTypes.hostGenerator;
          default = null;
          description = ''
            How the value is made: a function of packages that returns a generator, as in `{ mkPassword }: mkPassword { }`, or what a function of fleetLib
            returns. `"shared"` is a secret that the fleet declares and that this host owns; such secrets are here without being declared. Null is for a value that a person
            gives with `nix run .#secrets -- set`.
          '';
          example = literalExpression "{ mkPassword }: mkPassword { size = 40; }";
        };

        owner = mkOption {
          type = types.str;
          default = "root";
          description = "The user that the encrypted parts belong to.";
          example = "postgres";
        };

        group = mkOption {
          type = types.str;
          default = primaryGroup config.owner;
          defaultText = literalExpression "config.users.users.<owner>.group, or \"root\"";
          description = "The group of the encrypted parts.";
          example = "postgres";
        };

        mode = mkOption {
          type = fleetTypes.secretMode;
          default = "0440";
          description = "The mode of the encrypted parts. Public parts can be read by everybody.";
          example = "0400";
        };

        restartUnits = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = ''
            Units that are restarted when the value has changed. This is for units that use `stablePath`: `path` changes with the value, and with it every unit that it is
            in. Encrypting the same value anew restarts nothing.
          '';
          example = [ "postgresql.service" ];
        };

        reloadUnits = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "Units that are reloaded when the value has changed.";
          example = [ "nginx.service" ];
        };

        neededForUsers = mkOption {
          type = types.bool;
          default = false;
          description = ''
            Whether users are made from it, as with `hashedPasswordFile`. The secret is then in `/run/secrets-for-users` before there are users, and belongs to root.
          '';
        };

        credentials = mkOption {
          type = types.attrsOf types.str;
          default = { };
          description = ''
            Names by which units get parts with `LoadCredential=` or `ImportCredential=`, each with the part: `LoadCredential = "db-password"` is enough where this says
            `db-password = "secret"`.
          '';
          example = {
            db-password = "secret";
          };
        };
      };
    };

  describe = fleetSecrets.describe {
    inherit pkgs;
    inherit (config.nixpkgs) overlays;
  };

  knownOf = configuration: mapAttrs (_: secret: secret._fleet) configuration.secrets;

  # Old NixOS has no configurations here, but what they are made from.
  specialisations = lib.filter (configuration: configuration ? system.build.fleetSecrets) (
    lib.mapAttrsToList (_: entry: entry.configuration or { }) (
      config.specialisation or { }
    )
  );

  # By its name alone, a host's own secret is meant before a shared one.
  resolve =
    declarations: name:
    if declarations ? ${name} && declarations.${name}.generator != "shared" then
      "host/${host.name}/${name}"
    else
      "shared/${name}";
in
{
  options.secrets = mkOption {
    type = types.attrsOf (types.submodule secret);
    default = { };
    apply =
      declarations:
      mapAttrs (
        name: declaration:
        let
          known = describe (resolve declarations) name declaration;
        in
        known.parts // declaration // { _fleet = known; }
      ) declarations;
    description = ''
      Secrets of this host. Beside what is set here, `config.secrets.<name>` has an attribute for each part, as `secret` and `public`, with `path` (a file whose name
      changes with the value), `stablePath` (the same file under a name that does not), `placeholder` (for `secretTemplates`) and, for public parts, `data` (the value).
      `secretPath` is `secret.path`.
    '';
    example = literalExpression ''
      {
        db-password = {
          generator = { mkPassword }: mkPassword { };
          owner = "postgres";
        };
      }
    '';
  };

  # What a record says, and what other modules of this folder read. A specialisation is a part of the system, so its secrets are, too.
  config.system.build.fleetSecrets = fleetSecrets.summarize {
    secrets = lib.foldl' (known: configuration: knownOf configuration // known) (knownOf config) specialisations;
    system = pkgs.stdenv.hostPlatform.system;
    inherit (config.nixpkgs) overlays;
    inherit (host.nixpkgs) buildUsing;
  };
}
