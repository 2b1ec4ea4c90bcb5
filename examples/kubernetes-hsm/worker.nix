# A worker: it knows the authority, and so whom to trust.
{ config, pkgs, ... }:
{
  environment.systemPackages = [
    (pkgs.writeShellApplication {
      name = "ask-apiserver";
      text = ''
        exec ${pkgs.openssl.bin}/bin/openssl s_client -connect "$1:6443" -verify_ip "$1" -verify_return_error -brief \
          -CAfile ${config.secrets."ca.pem".public.path}
      '';
    })
  ];
}
