# A WireGuard mesh: every member is a peer of every other. The first argument set makes the instance, so that a fleet can
# import this file more than once.
{
  # Name of the interface, and of the mesh.
  interface,
  # UDP port that the members listen on.
  port,
  # Names of the hosts that are in the mesh.
  members,
}:
{ config, fleetLib, lib, ... }:
let
  inherit (lib) mkOption types;

  # What the mesh knows of a host is said in the host's entry, where reading it evaluates no other host's NixOS configuration:
  # a mesh of hundreds stays cheap.
  entryOptions.options.mesh.${interface} = {
    address = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "10.100.0.1";
      description = "The host's address in the mesh ${interface}.";
    };
    publicKey = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = ''
        The host's public key in the mesh ${interface}. The host makes the private key when the interface first starts; `wg show ${interface} public-key` tells the public one.
      '';
    };
  };

  incomplete = lib.filter (
    name:
    let
      mine = config.hosts.${name}.mesh.${interface};
    in
    mine.address == null || mine.publicKey == null
  ) members;
in
{
  hostDefaults = entryOptions;

  checks."mesh-${interface}" = {
    assertion = incomplete == [ ];
    message = ''
      Members of the mesh ${interface} lack an address or a public key: ${lib.concatStringsSep ", " incomplete}.
      Set hosts.<name>.mesh.${interface}.address and .publicKey, or take them out of the list of members.
    '';
  };

  hosts = fleetLib.forHosts members (name: {
    nixos =
      { fleetLib, hosts, ... }:
      let
        peers = fleetLib.others name (lib.getAttrs members hosts);
      in
      {
        networking.firewall.allowedUDPPorts = [ port ];

        networking.wireguard.interfaces.${interface} = {
          ips = [ "${hosts.${name}.mesh.${interface}.address}/24" ];
          listenPort = port;
          privateKeyFile = "/etc/wireguard/${interface}.key";
          generatePrivateKeyFile = true;
          peers = lib.mapAttrsToList (
            _: peer:
            {
              inherit (peer.mesh.${interface}) publicKey;
              allowedIPs = [ "${peer.mesh.${interface}.address}/32" ];
              # Keeps the way open where the other end cannot call us.
              persistentKeepalive = 25;
            }
            // lib.optionalAttrs (peer.network.externalIps != [ ]) {
              endpoint = "${fleetLib.externalIp peer}:${toString port}";
            }
          ) peers;
        };
      };
  });
}
