# Who is in the fleet, and how they are reached.
{ lib, ... }:
{
  hostDefaults = {
    system = lib.mkDefault "x86_64-linux";
    deploy.user = lib.mkDefault "root";
  };

  hosts = {
    controlplane-1 = {
      tags = [ "controlplane" ];
      network.internalIps = [ "10.77.0.11" ];
      deploy.address = "10.77.0.11";
    };

    worker-1 = {
      tags = [
        "worker"
        "canary"
      ];
      network.internalIps = [ "10.77.0.12" ];
      deploy.address = "10.77.0.12";
    };

    worker-2 = {
      tags = [ "worker" ];
      network.internalIps = [ "10.77.0.13" ];
      deploy.address = "10.77.0.13";
      # What only this host has.
      nixos.environment.etc."cluster/rack".text = "rack 2\n";
    };
  };
}
