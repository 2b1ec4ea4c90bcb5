# The unit that takes up an open transaction after a boot. It only starts the guard, which runs in a unit of its own, so that no switch-to-configuration is
# ever below a unit that it could stop.
{
  config,
  fleetHelper,
  host,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf mkMerge mkOption types;

  cfg = config.fleet.guard.bootGuard;

  program = "${fleetHelper pkgs}/bin/fleet-helper";

  loader = config.boot.loader or { };
  countsBoots =
    (loader.systemd-boot.bootCounting.enable or false)
    || (config.boot.lanzaboote.bootCounting.initialTries or 0) > 0;
in
{
  options.fleet.guard.bootGuard.enable = mkOption {
    type = types.bool;
    default = host.deploy.guard.enable;
    defaultText = lib.literalExpression "deploy.guard.enable of the host";
    description = ''
      Whether the system has `fleet-boot-guard.service`, which takes up an activation that a boot has interrupted, and one that is to prove itself by a boot: `boot` and `reboot` are refused for a
      system without it. Where systemd-boot or lanzaboote counts boots, it also keeps a boot from being counted as good before the new system is confirmed.
    '';
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = [
        {
          # An empty file where the unit should be looks like the unit to who looks for a file.
          assertion = config.systemd.services.fleet-boot-guard.enable or true;
          message = ''
            The host ${host.name}: systemd.services.fleet-boot-guard.enable is false, which masks the unit instead of leaving it out.
            Set fleet.guard.bootGuard.enable = false where the host is to have none.
          '';
        }
      ];

      systemd.services.fleet-boot-guard = {
        description = "Bring interrupted activations to their end";
        # It lives through all that a boot can come to: what goes wrong early ends in one of the latter two.
        wantedBy = [
          "sysinit.target"
          "emergency.target"
          "rescue.target"
        ];
        after = [ "systemd-remount-fs.service" ];
        before = [
          "sysinit.target"
          "shutdown.target"
        ];
        conflicts = [ "shutdown.target" ];
        # switch-to-configuration leaves it alone, whatever has changed.
        restartIfChanged = false;
        stopIfChanged = false;
        unitConfig = {
          DefaultDependencies = false;
          RequiresMountsFor = "/nix/var/fleet";
          IgnoreOnIsolate = true;
          RefuseManualStop = true;
          StartLimitIntervalSec = 0;
          X-StopOnRemoval = false;
        };
        serviceConfig = {
          Type = "notify";
          ExecStart = "${program} boot-guard";
          Restart = "on-failure";
          RestartSec = "5s";
          # The boot waits for it no longer than this.
          TimeoutStartSec = "30s";
          RemainAfterExit = true;
          OOMScoreAdjust = -1000;
        };
      };
    }

    (mkIf countsBoots {
      # A condition that is not met skips the unit, and is no failure. The guard starts it once the system is confirmed.
      systemd.services.systemd-bless-boot.serviceConfig.ExecCondition = "${program} may-bless";
    })
  ]);
}
