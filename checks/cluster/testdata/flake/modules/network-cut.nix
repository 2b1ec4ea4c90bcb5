# A firewall that lets nothing in or out of the host's link.
{
  systemd.services.cluster-firewall = {
    wantedBy = [ "multi-user.target" ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStop = "/usr/sbin/nft delete table inet cluster";
    };
    script = ''
      /usr/sbin/nft -f - <<'END'
      table inet cluster
      delete table inet cluster
      table inet cluster {
        chain in { type filter hook input priority 0; iifname "eth0" drop; }
        chain out { type filter hook output priority 0; oifname "eth0" drop; }
      }
      END
    '';
  };
}
