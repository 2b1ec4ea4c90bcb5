# A control plane. In place of Kubernetes there is what is enough to see its certificate: a server that answers TLS.
{ config, pkgs, ... }:
let
  certificate = config.secrets."apiserver.pem";
in
{
  networking.firewall.allowedTCPPorts = [ 6443 ];

  systemd.services.apiserver = {
    description = "Answer TLS as the API server of the cluster";
    wantedBy = [ "multi-user.target" ];
    serviceConfig = {
      DynamicUser = true;
      # Only root can read the key; systemd hands it to this service.
      LoadCredential = "key:${certificate.secret.path}";
      ExecStart = "${pkgs.openssl.bin}/bin/openssl s_server -accept 6443 -www -cert ${certificate.public.path} -key %d/key";
      Restart = "on-failure";
    };
  };
}
