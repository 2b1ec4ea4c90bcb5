# What happens only while somebody deploys, and not when a host boots, or is rolled back: the program says so with a variable, which switch-to-configuration hands on
# to the activation script, and starts the target once the new system runs.
{
  config,
  host,
  lib,
  ...
}:
let
  inherit (lib)
    any
    attrValues
    elem
    isString
    literalExpression
    mapAttrs
    mkIf
    mkMerge
    mkOption
    types
    ;

  scripts = config.system.onlineActivationScripts;

  # What the snippets of online activations come after: a place for what is to be there before all of them.
  anchor = "onlineActivation";

  script = types.submodule {
    options = {
      text = mkOption {
        type = types.lines;
        description = "The snippet, in bash.";
        example = "ceph-mon-map-update";
      };
      deps = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Snippets that come first, of `system.onlineActivationScripts` and of `system.activationScripts`.";
        example = [ "users" ];
      };
      supportsDryActivation = mkOption {
        type = types.bool;
        default = false;
        description = "Whether it also runs with `dry-activate`, and does nothing then but tell what it would do (`$NIXOS_ACTION` is `dry-activate`).";
      };
    };
  };

  whileDeploying = text: ''
    if [ -n "''${FLEET_ONLINE_ACTIVATION+set}" ]; then
    :
    ${text}
    fi
  '';

  # Older NixOS knows no dry activation of snippets.
  render =
    snippet:
    {
      text = whileDeploying snippet.text;
      deps = [ anchor ] ++ snippet.deps;
    }
    // lib.optionalAttrs snippet.supportsDryActivation { supportsDryActivation = true; };

  target = "online-activation.target";
  asksForIt = unit: elem target ((unit.wantedBy or [ ]) ++ (unit.requiredBy or [ ]));
  kinds = [
    "services"
    "sockets"
    "timers"
    "paths"
  ];
  isAskedFor = any (kind: any asksForIt (attrValues config.systemd.${kind})) kinds;
in
{
  options.system.onlineActivationScripts = mkOption {
    type = types.attrsOf (types.coercedTo types.str (text: { inherit text; }) script);
    default = { };
    description = ''
      Activation scripts that run only while somebody deploys, and not when the host boots: for what must not be done with a configuration that may be old by then, as the monitor map of a Ceph cluster. They are snippets of
      `system.activationScripts` under their own names, after `onlineActivation`.

      Where the deployment needs units and not scripts, `wantedBy = [ "online-activation.target" ]` starts them once the new system runs, and waits for those of type `oneshot`. One that fails counts as a
      failed unit.
    '';
    example = literalExpression ''
      {
        monmap = {
          deps = [ "users" ];
          text = "ceph-mon --mkfs --monmap /etc/ceph/monmap";
        };
      }
    '';
  };

  config = mkMerge [
    {
      assertions = [
        {
          assertion = scripts == { } || !(config.system.nixos-init.enable or false);
          message = ''
            The host ${host.name} has system.onlineActivationScripts (${toString (lib.attrNames scripts)}), and system.nixos-init, which runs no activation scripts.
            Make them units with wantedBy = [ "${target}" ], or set system.nixos-init.enable = false.
          '';
        }
      ];
    }

    (mkIf (scripts != { }) {
      system.activationScripts = mapAttrs (_: render) scripts // {
        ${anchor} = {
          text = whileDeploying "echo 'online activation: somebody deploys' >&2";
          deps = [ ];
        };
      };
    })

    (mkIf isAskedFor {
      systemd.targets.online-activation = {
        description = "Somebody deploys";
        unitConfig = {
          # It is started by a deployment alone: switch-to-configuration starts active targets anew, and this one is not to be active for longer than it takes.
          X-OnlyManualStart = true;
          StopWhenUnneeded = true;
        };
      };
    })
  ];
}
