# The host with the HSM. Here it is SoftHSM, a token in software; with another one, its module goes into `module`, and its key is
# made as its manual says in place of the service hsm-token.
{ config, pkgs, ... }:
let
  # A secret that makes secrets: the PIN of the token.
  pin = config.secrets.hsm-pin.secretPath;

  module = "${pkgs.softhsm}/lib/softhsm/libsofthsm2.so";

  tokens = pkgs.writeText "softhsm2.conf" ''
    directories.tokendir = /var/lib/hsm/tokens
    objectstore.backend = file
    log.level = ERROR
  '';

  openssl-conf = pkgs.writeText "openssl-hsm.cnf" ''
    openssl_conf = openssl

    [openssl]
    providers = providers

    [providers]
    default = own
    pkcs11 = pkcs11

    [own]
    activate = 1

    [pkcs11]
    activate = 1
    module = ${pkgs.pkcs11-provider}/lib/ossl-modules/pkcs11.so
    pkcs11-module-path = ${module}
    pkcs11-module-token-pin = file:${pin}
    # SoftHSM does not survive to be finalized at the end of the process.
    pkcs11-module-quirks = no-deinit

    [req]
    distinguished_name = name

    [name]
  '';

  hsm-openssl = pkgs.writeShellApplication {
    name = "hsm-openssl";
    text = ''
      export OPENSSL_CONF=${openssl-conf} SOFTHSM2_CONF=${tokens}
      exec ${pkgs.openssl.bin}/bin/openssl "$@"
    '';
  };
in
{
  secrets.hsm-pin.generator =
    { mkPassword }:
    mkPassword {
      # What pkcs11-provider reads ends after 31 characters.
      size = 24;
      noSymbols = true;
    };

  environment.systemPackages = [ hsm-openssl ];

  systemd.services.hsm-token = {
    description = "Make the key and the certificate of the authority, once";
    wantedBy = [ "multi-user.target" ];
    unitConfig.ConditionPathExists = "!/var/lib/hsm/ca.crt";
    path = [
      pkgs.opensc
      hsm-openssl
    ];
    environment.SOFTHSM2_CONF = tokens;
    serviceConfig = {
      Type = "oneshot";
      StateDirectory = "hsm";
      StateDirectoryMode = "0700";
      UMask = "0077";
    };
    script = ''
      # What an earlier attempt has left: nothing was ever signed with it.
      rm -rf /var/lib/hsm/tokens
      mkdir /var/lib/hsm/tokens
      PIN=$(cat ${pin})
      export PIN
      token() { pkcs11-tool --module ${module} "$@"; }
      token --init-token --slot-index 0 --label cluster --so-pin env:PIN
      token --token-label cluster --login --login-type so --so-pin env:PIN --init-pin --new-pin env:PIN
      token --token-label cluster --login --pin env:PIN --keypairgen --key-type EC:secp384r1 --label cluster-ca --id 01 --usage-sign
      hsm-openssl req -new -x509 -days 3650 -subj "/CN=Certificate authority of the cluster" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
        -key "pkcs11:token=cluster;object=cluster-ca;type=private" -out /var/lib/hsm/ca.new
      mv /var/lib/hsm/ca.new /var/lib/hsm/ca.crt
    '';
  };
}
