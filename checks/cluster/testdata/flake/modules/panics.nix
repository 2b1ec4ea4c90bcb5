# A system that runs where it is switched to, and goes down at once where it is booted, as with a kernel that panics.
{
  systemd.services.cluster-panic = {
    wantedBy = [ "sysinit.target" ];
    before = [ "sysinit.target" ];
    unitConfig.DefaultDependencies = false;
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
    };
    script = ''
      if [ "$(readlink -f /run/booted-system)" = "$(readlink -f /run/current-system)" ]; then
        systemctl reboot --force --force
      fi
    '';
  };
}
