# What happens only while somebody deploys: each time leaves a line.
{
  system.onlineActivationScripts.cluster-online = "echo script >>/var/lib/cluster-online";
  systemd.services.cluster-online = {
    wantedBy = [ "online-activation.target" ];
    serviceConfig.Type = "oneshot";
    script = "sleep 1; echo unit >>/var/lib/cluster-online";
  };
}
