# A fleet module: it sees all hosts, declares options of its own, and gives every host its part.
{ config, fleetLib, lib, ... }:
let
  cfg = config.cluster;

  members = fleetLib.hostNames config.hosts;
  controlplanes = fleetLib.hostNames (fleetLib.withTag "controlplane" config.hosts);
in
{
  options.cluster = {
    name = lib.mkOption {
      type = lib.types.str;
      default = "demo";
      description = "The name of the cluster, which every host shows.";
    };

    motto = lib.mkOption {
      type = lib.types.str;
      default = "hello from fleet";
      description = "What every host writes when it starts. Change it and deploy, to see something happen.";
    };
  };

  config = {
    checks.controlplane = {
      assertion = controlplanes != [ ];
      message = ''
        The cluster "${cfg.name}" has no control plane.
        Give a host the tag: hosts.<name>.tags = [ "controlplane" ];
      '';
    };

    warnings = lib.optional (builtins.length controlplanes == 1 && builtins.length members > 3) ''
      The cluster "${cfg.name}" has ${toString (builtins.length members)} hosts and a single control plane.
    '';

    nixos =
      { fleetLib, host, hosts, ... }:
      let
        role = if builtins.elem "controlplane" host.tags then "controlplane" else "worker";
      in
      {
        environment.etc = {
          "cluster/name".text = "${cfg.name}\n";
          "cluster/host".text = "${host.name}\n";
          "cluster/role".text = "${role}\n";
          # Every host knows all others, and nobody keeps the list.
          "cluster/members".text = lib.concatMapStrings (
            name: "${fleetLib.internalIp hosts.${name}} ${name}\n"
          ) members;
        };

        systemd.services.cluster-hello = {
          description = "Say who this host is";
          wantedBy = [ "multi-user.target" ];
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            RuntimeDirectory = "cluster";
            ExecStart = "/bin/sh -c 'echo \"${host.name}, ${role} of ${cfg.name}: ${cfg.motto}\" > /run/cluster/hello'";
          };
        };
      };
  };
}
