{ lib, ... }:
let
  inherit (lib) literalExpression mkOption types;

  check = types.submodule {
    options = {
      assertion = mkOption {
        type = types.bool;
        default = true;
        description = "What must hold.";
        example = literalExpression "config.hosts.db.network.internalIps != [ ]";
      };
      message = mkOption {
        type = types.str;
        default = "no message was given for this check";
        description = ''
          What a person reads when the assertion is false: the host and the option, what is wrong with the value, and how to mend
          it. The line that says how to ignore the check is added.
        '';
        example = "hosts.db has no internal address. Set hosts.db.network.internalIps.";
      };
      ignore = mkOption {
        type = types.bool;
        default = false;
        description = "Whether to go on although the assertion is false.";
      };
      ignorable = mkOption {
        type = types.bool;
        default = true;
        internal = true;
        description = "Whether `ignore` has an effect. It has none where nothing could be done with the fleet.";
      };
    };
  };
in
{
  _class = "fleet";

  options = {
    checks = mkOption {
      type = types.attrsOf check;
      default = { };
      description = ''
        What must hold before anything is done with the fleet. All checks that fail are reported in one error, each with its name and
        the line that silences it. A check here must not read the configuration of a host (`nixosHosts`): these are evaluated with
        every plan. What concerns one host's NixOS configuration is an assertion in its modules.
      '';
      example = literalExpression ''
        {
          has-db = {
            assertion = config.hosts ? db;
            message = "The backup module needs a host named db. Add hosts.db.";
          };
        }
      '';
    };

    warnings = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "What a person should know before a deployment, and need not act on. Printed with every plan.";
      example = [ "hosts.old runs on hardware that is to be replaced." ];
    };
  };
}
