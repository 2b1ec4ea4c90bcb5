# What brings a host back that does not get as far as to a guard: kernels that panic or hang, and boots that stop to ask a person. All of it is off, since a
# reboot takes away what there is to look at.
{
  config,
  fleetTypes,
  lib,
  options,
  ...
}:
let
  inherit (lib)
    mkIf
    mkMerge
    mkOption
    optional
    types
    ;

  cfg = config.fleet.guard;

  seconds =
    description:
    mkOption {
      type = types.nullOr (fleetTypes.seconds 1);
      default = null;
      inherit description;
      example = 60;
    };

  time = value: mkIf (value != null) "${toString value}s";

  # By what this NixOS has.
  watchdog =
    if options.systemd ? settings.Manager then
      {
        settings.Manager = {
          RuntimeWatchdogSec = time cfg.watchdog.runtime;
          RebootWatchdogSec = time cfg.watchdog.reboot;
        };
      }
    else
      {
        watchdog = {
          runtimeTime = time cfg.watchdog.runtime;
          rebootTime = time cfg.watchdog.reboot;
        };
      };
in
{
  options.fleet.guard = {
    panicTimeout = mkOption {
      type = types.nullOr (fleetTypes.seconds 1);
      default = null;
      description = ''
        After how many seconds the kernel reboots when it has panicked (`panic=` of the kernel's command line). Null leaves it as it is, which is for ever. With a guarded `boot` or `reboot`,
        the boot after the panic of a new system is that of the old one.
      '';
      example = 10;
    };

    panicOnFail = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether an initrd that cannot go on panics instead of waiting for a person (`boot.panic_on_fail` of the kernel's command line), as with a root file system that is
        not found. It takes `panicTimeout` to reboot then. Do not set it for hosts whose disks a person unlocks.
      '';
    };

    watchdog = {
      runtime = seconds ''
        After how many seconds without a sign of life from systemd the hardware watchdog resets the machine. Null leaves it to NixOS. It takes a watchdog, as servers have
        (`/dev/watchdog`); without one, it does nothing.
      '';

      reboot = seconds ''
        After how many seconds the hardware watchdog resets a machine that is going down and does not come to its end. Null leaves it to NixOS.
      '';
    };
  };

  config = mkMerge [
    {
      assertions = [
        {
          assertion = cfg.panicOnFail -> cfg.panicTimeout != null;
          message = ''
            fleet.guard.panicOnFail makes a boot that fails panic, and nothing reboots the host then: fleet.guard.panicTimeout is not set.
            Set fleet.guard.panicTimeout = 10; or set panicOnFail = false.
          '';
        }
      ];
    }

    (mkIf (cfg.panicTimeout != null || cfg.panicOnFail) {
      boot.kernelParams =
        optional (cfg.panicTimeout != null) "panic=${toString cfg.panicTimeout}"
        ++ optional cfg.panicOnFail "boot.panic_on_fail";
    })

    (mkIf (cfg.watchdog.runtime != null || cfg.watchdog.reboot != null) {
      systemd = watchdog;
    })
  ];
}
