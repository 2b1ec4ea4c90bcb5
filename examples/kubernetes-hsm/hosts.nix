# Who is in the cluster, and how they are reached.
{ lib, ... }:
let
  host = tag: address: nixos: {
    tags = [ tag ];
    network.internalIps = [ address ];
    deploy.address = address;
    inherit nixos;
  };
in
{
  hostDefaults.system = lib.mkDefault "x86_64-linux";

  hosts = {
    hsm-1 = host "hsm" "10.77.0.11" ./hsm.nix;
    controlplane-1 = host "controlplane" "10.77.0.12" ./controlplane.nix;
    controlplane-2 = host "controlplane" "10.77.0.13" ./controlplane.nix;
    worker-1 = host "worker" "10.77.0.14" ./worker.nix;
  };
}
