# How a host is reached and deployed.
{ fleetTypes, lib, name, ... }:
let
  inherit (lib) literalExpression mkOption types;
in
{
  _class = "fleetHost";

  options.deploy = {
    address = mkOption {
      type = fleetTypes.address;
      default = name;
      defaultText = literalExpression "<name>";
      description = ''
        Where the host is: a name or an IP address, resolved as your own `ssh` would, so that an entry in `~/.ssh/config` counts. `"local"` is the machine that
        deploys, without SSH.
      '';
      example = "10.0.0.1";
    };

    port = mkOption {
      type = types.nullOr fleetTypes.port;
      default = null;
      description = "The SSH port. Null leaves it to your ssh configuration.";
      example = 2222;
    };

    user = mkOption {
      type = types.nullOr fleetTypes.user;
      default = null;
      description = "The user to log in as. Null leaves it to your ssh configuration.";
      example = "root";
    };

    jumpHosts = mkOption {
      type = types.nullOr (types.listOf fleetTypes.jumpHost);
      default = null;
      description = ''
        Hosts to go through, in order, each as `[user@]host[:port]`. Null leaves it to your ssh configuration, the empty list means none.
      '';
      example = [ "admin@gate.example.org:2222" ];
    };

    hostKeys = mkOption {
      type = types.listOf fleetTypes.hostKey;
      default = [ ];
      description = ''
        The host's public SSH keys. Where they are given, no other key is accepted. Where the list is empty, your known_hosts decides.
      '';
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIgrguf0j0bYr/iFlaMwtqoU7iMcq0jM9Rgi8mSkslLs" ];
    };

    transport = mkOption {
      type = types.enum [
        "native"
        "openssh"
      ];
      default = "native";
      description = ''
        What makes the SSH connection. `"native"` is built in and needs no ssh program. `"openssh"` runs your ssh program, for what only that can do: keys on
        hardware tokens without an agent, GSSAPI, PKCS#11, KnownHostsCommand.
      '';
    };

    elevation = mkOption {
      type = types.enum [
        "auto"
        "none"
        "sudo"
        "doas"
        "run0"
      ];
      default = "auto";
      description = ''
        How the login user becomes root. `"auto"` does nothing for root, and otherwise takes the first of sudo, doas and run0 that the host has. `"none"` stays the login
        user: such a host can be pushed to, if it trusts the user or the signatures, and not be activated, unless the user is root.
      '';
    };

    buildOn = mkOption {
      type = types.str;
      default = "operator";
      description = ''
        Where the system is built: `"operator"` is the machine that deploys, `"target"` the host itself, anything else the name of another host of the fleet.
      '';
      example = "builder-1";
    };

    relay = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = ''
        Another host of the fleet, near this one, from which this host takes what it lacks, so that the closure of many hosts at a far site crosses the way to that site once. The
        relay is sent the closure first and keeps it until the next push; then this host connects to it at its `deploy.address`, as this host
        resolves that, or else at another address of the relay, and TCP port `deploy.relayPort`. Nobody has to trust the relay: the connection is made with keys for this
        push alone, and each path is compared with what the machine that deploys has. Logins and activations are unchanged, and do not pass through the relay
        (see `deploy.jumpHosts` for that).

        A relay is never needed: where it cannot be reached, the paths are sent from the machine that deploys, with a warning. Less than 1 MiB always is. A relay has no
        relay itself.
      '';
      example = "gate-1";
    };

    relayPort = mkOption {
      type = fleetTypes.port;
      default = 7171;
      description = ''
        The TCP port on which this host listens while it is a relay for others (`deploy.relay`), which is for as long as they take from it. The host's NixOS firewall
        opens it where another host names this one as its relay; so deploy the relay itself first.
      '';
      example = 7272;
    };

    substituteOnDestination = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether the host first takes from its own binary caches what it is missing, and is sent the rest. Off, it is sent everything, which asks nothing of its way to the
        internet; on is better behind a slow uplink.
      '';
    };

    specialisation = mkOption {
      type = types.nullOr fleetTypes.name;
      default = null;
      description = "The specialisation that is activated, one of `specialisation` in the host's NixOS configuration. Null is the system itself.";
      example = "maintenance";
    };
  };
}
