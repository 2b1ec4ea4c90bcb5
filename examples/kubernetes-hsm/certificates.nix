# Which certificates there are, and who can read their keys: nobody else, not even who runs the deployment.
{
  config,
  fleetLib,
  lib,
  ...
}:
let
  controlplanes = fleetLib.withTag "controlplane" config.hosts;
in
{
  sharedSecrets = {
    "ca.pem" = {
      expectedOwners = [
        "@controlplane"
        "@worker"
      ];
      # A new host needs what the others have: the same certificate.
      regenerateOnOwnerAdded = false;
      generator = { readClusterCa }: readClusterCa { impureOn = "hsm-1"; };
    };

    "admin.pem" = {
      expectedOwners = [ "controlplane-1" ];
      regenerateOnOwnerAdded = false;
      generator =
        { mkClusterCert }:
        mkClusterCert {
          subject = {
            CN = "admin";
            O = "system:masters";
          };
          impureOn = "hsm-1";
        };
    };

    "apiserver.pem" = {
      expectedOwners = [ "@controlplane" ];
      # Who leaves takes a key along, and who comes is a name that the certificate does not have.
      regenerateOnOwnerAdded = true;
      regenerateOnOwnerRemoved = true;
      generator =
        { mkClusterCert }:
        mkClusterCert {
          subject.CN = "kubernetes";
          sans = [
            "DNS:kubernetes"
          ]
          ++ lib.mapAttrsToList (_: host: "IP:${fleetLib.internalIp host}") controlplanes;
          impureOn = "hsm-1";
        };
    };
  };
}
