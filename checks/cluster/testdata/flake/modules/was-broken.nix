# A unit that has failed for as long as anybody remembers.
{
  systemd.services.was-broken = {
    wantedBy = [ "multi-user.target" ];
    serviceConfig.Type = "oneshot";
    script = "exit 1";
  };
}
