# How the host is brought back when an activation goes wrong.
{ fleetTypes, lib, ... }:
let
  inherit (lib) mkOption types;

  seconds =
    least: default: example: description:
    mkOption {
      type = fleetTypes.seconds least;
      inherit default description example;
    };
in
{
  _class = "fleetHost";

  options.deploy.guard = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether a guard on the host watches over activations: a new system runs first, is judged, is confirmed over a new connection, and only then becomes what
        boots; whatever stops it before that ends with the old system. Off, an activation is as plain tools do it: what was activated without an error is taken, nothing is rolled back, and nothing
        of fleet's guard becomes part of the host's system.
      '';
    };

    switchTimeout = seconds 1 900 3600 ''
      How many seconds an activation of the new system may take. Units that may take long to stop or to start need more.
    '';

    rollbackTimeout = seconds 1 600 1800 ''
      How many seconds an activation of the old system may take, before the next means are tried.
    '';

    confirmTimeout = seconds 5 180 600 ''
      How many seconds a host that is healthy waits for the confirmation, which comes over a connection that is made anew, as the next deployment's will be.
      Without it, the host goes back.
    '';

    bootConfirm = seconds 5 600 1200 ''
      How many seconds a host that has booted the new system waits to be confirmed, from its boot.
    '';

    settle = seconds 0 10 60 ''
      How many seconds units may take to settle after an activation. The wait ends as soon as systemd has no job left and no unit is about to be restarted.
    '';

    soak = seconds 0 0 60 ''
      How many seconds the host has to stay healthy before it asks to be confirmed.
    '';

    reboot = mkOption {
      type = types.enum [
        "never"
        "if-safe"
        "always"
      ];
      default = "if-safe";
      description = ''
        Whether a rollback may reboot the host, once, where activating the old system did not help. `"if-safe"` does where the boot default is the system that ran before and the kernel
        that it boots is the one that ran. `"always"` does where the boot default is the old system. `"never"` is for hosts that wait for a person when they boot, as with an encrypted disk.
      '';
    };

    ignoreUnits = mkOption {
      type = types.listOf fleetTypes.unitPattern;
      default = [ ];
      description = "Systemd units whose failure is no reason to go back. `*` and `?` match as in file names.";
      example = [
        "certbot.service"
        "backup-*.service"
      ];
    };

    skipChecks = mkOption {
      type = types.listOf fleetTypes.name;
      default = [ ];
      description = ''
        Checks before an activation whose objections do not count, by the names that the objections come with. An open transaction, a lock, and an old or new system that is not whole cannot be skipped.
      '';
      example = [ "boot-space" ];
    };

    vantages = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = ''
        Other hosts of the fleet through which the host is confirmed, in order, where the machine that deploys cannot reach it. Without any, a host that cannot be reached from there goes back.
      '';
      example = [ "web-2" ];
    };
  };
}
