# A firewall that forgets the operator's machine, as a wrong list of addresses does. Others get in.
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
        chain in { type filter hook input priority 0; ip saddr 10.77.0.2 drop; }
      }
      END
    '';
  };
}
