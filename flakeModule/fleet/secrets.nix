# Secrets that several hosts own, and where the state is.
{
  fleetName,
  fleetSecretOptions,
  fleetTypes,
  lib,
  self,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;

  # What hosts can say themselves: here it is the default for all owners.
  forOwners = {
    owner = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "The user that the encrypted parts belong to on the hosts that own the secret, unless they say otherwise. Null leaves it to them.";
      example = "nginx";
    };

    group = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "The group of the encrypted parts on the hosts that own the secret, unless they say otherwise. Null leaves it to them.";
      example = "nginx";
    };

    mode = mkOption {
      type = types.nullOr fleetTypes.secretMode;
      default = null;
      description = "The mode of the encrypted parts on the hosts that own the secret, unless they say otherwise. Null leaves it to them.";
      example = "0400";
    };

    neededForUsers = mkOption {
      type = types.nullOr types.bool;
      default = null;
      description = "Whether users cannot be made without the secret on the hosts that own it, unless they say otherwise. Null leaves it to them.";
      example = true;
    };

    restartUnits = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Units that are restarted on every host that owns the secret when the value has changed, beside those that the host names.";
      example = [ "nginx.service" ];
    };

    reloadUnits = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Units that are reloaded on every host that owns the secret when the value has changed, beside those that the host names.";
      example = [ "nginx.service" ];
    };
  };

  sharedSecret =
    { config, ... }:
    {
      _class = "fleetSecret";

      options = fleetSecretOptions.declaration // forOwners // {
        generator = mkOption {
          type = types.nullOr fleetTypes.generator;
          default = null;
          description = ''
            How the value is made: a function of packages that returns a generator, as in `{ mkPassword }: mkPassword { }`, or what a function of fleetLib
            returns. Null is for a value that a person gives with `nix run .#secrets -- set`. The generator is called with the packages of the fleet
            (`nixpkgs`) for the system that it runs on.
          '';
          example = literalExpression "{ mkPassword }: mkPassword { size = 40; }";
        };

        expectedOwners = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "The hosts that can read the secret: names of hosts, and `@tag` for all hosts with a tag.";
          example = [
            "controlplane-1"
            "@worker"
          ];
        };

        regenerateOnOwnerAdded = mkOption {
          type = types.bool;
          default = false;
          description = ''
            Whether a new owner means a new value, for all owners. Otherwise one of the owners encrypts the value to the new one as well, and nothing changes for the
            others.
          '';
        };

        regenerateOnOwnerRemoved = mkOption {
          type = types.bool;
          default = config.regenerateOnOwnerAdded;
          defaultText = literalExpression "<regenerateOnOwnerAdded>";
          description = "Whether an owner less means a new value. Otherwise the former owner still knows the value, and git's history has it.";
        };
      };
    };
in
{
  _class = "fleet";

  # The newer name of the same.
  imports = [ (lib.mkAliasOptionModule [ "secrets" ] [ "sharedSecrets" ]) ];

  options = {
    sharedSecrets = mkOption {
      type = types.attrsOf (
        types.submoduleWith {
          class = "fleetSecret";
          shorthandOnlyDefinesConfig = true;
          modules = [ sharedSecret ];
        }
      );
      default = { };
      description = ''
        Secrets that several hosts own. On each owner the secret is `config.secrets.<name>`, without being declared there; nobody else can read it. `secrets` is another
        name of this option.
      '';
      example = literalExpression ''
        {
          "ca.pem" = {
            expectedOwners = [ "@controlplane" ];
            generator = { mkX509Ca }: mkX509Ca { subject.CN = "Example root"; };
          };
        }
      '';
    };

    stateDir = mkOption {
      type = types.either types.path types.str;
      default = "${self}/fleet-state/${fleetName}";
      defaultText = literalExpression "\"\${self}/fleet-state/\${name of the fleet}\"";
      description = ''
        Where the fleet's state is: what `nix run .#secrets` has written, as it is in the flake. The program always writes to `fleet-state/<fleet>` beside the
        flake.nix; this is for a flake that takes the state from somewhere else.
      '';
      example = literalExpression "inputs.state + \"/default\"";
    };
  };
}
