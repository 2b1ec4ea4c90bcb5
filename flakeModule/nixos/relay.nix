# The firewall of a relay lets in those who take from it: the port is open, and somebody listens during pushes alone.
{
  host,
  hosts,
  lib,
  ...
}:
let
  isRelay = lib.any (other: other.deploy.relay == host.name) (lib.attrValues hosts);
in
{
  networking.firewall.allowedTCPPorts = lib.mkIf isRelay [ host.deploy.relayPort ];
}
