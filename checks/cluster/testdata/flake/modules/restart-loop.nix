# A service that ends as soon as it was started, again and again.
{
  systemd.services.cluster-loop = {
    wantedBy = [ "multi-user.target" ];
    unitConfig.StartLimitIntervalSec = 0;
    serviceConfig = {
      Type = "exec";
      Restart = "always";
      RestartSec = "200ms";
    };
    script = "sleep 0.3; exit 1";
  };
}
