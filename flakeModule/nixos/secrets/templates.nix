# Files that secrets are rendered into.
{
  config,
  fleetTypes,
  lib,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;

  primaryGroup =
    owner:
    let
      group = config.users.users.${owner}.group or "";
    in
    if group == "" then "root" else group;

  template =
    { config, name, ... }:
    {
      options = {
        content = mkOption {
          type = types.lines;
          description = "What the file holds, with placeholders of secrets in it. It is in the Nix store as it is here; the placeholders are replaced on the host.";
          example = literalExpression ''
            '''
              password = ''${config.secrets.db-password.secret.placeholder}
            '''
          '';
        };

        owner = mkOption {
          type = types.str;
          default = "root";
          description = "The user that the file belongs to.";
          example = "postgres";
        };

        group = mkOption {
          type = types.str;
          default = primaryGroup config.owner;
          defaultText = literalExpression "config.users.users.<owner>.group, or \"root\"";
          description = "The group of the file.";
          example = "postgres";
        };

        mode = mkOption {
          type = fleetTypes.secretMode;
          default = "0440";
          description = "The mode of the file.";
          example = "0400";
        };

        path = mkOption {
          type = types.str;
          default = "/run/secrets-rendered/${name}";
          defaultText = literalExpression "\"/run/secrets-rendered/<name>\"";
          description = "Where the file is. Another path becomes a link to it.";
          example = "/etc/app/config.toml";
        };

        restartUnits = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "Units that are restarted when what the file holds has changed.";
          example = [ "app.service" ];
        };

        reloadUnits = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "Units that are reloaded when what the file holds has changed.";
          example = [ "app.service" ];
        };
      };
    };
in
{
  options.secretTemplates = mkOption {
    type = types.attrsOf (types.submodule template);
    default = { };
    description = "Files with secrets in them, for programs that read their secrets from a configuration file.";
    example = literalExpression ''
      {
        "app.env" = {
          content = "API_KEY=''${config.secrets.api-key.secret.placeholder}";
          owner = "app";
          restartUnits = [ "app.service" ];
        };
      }
    '';
  };
}
