# How certificates are made: functions that certificates.nix calls in `generator`. What they are called with belongs to the
# secret, so that another subject or another name in a certificate makes a new one.
{
  nixpkgs.overlays = [
    (
      final: _:
      let
        inherit (final) lib;
        openssl = "${final.openssl.bin}/bin/openssl";

        # Fleet makes a new one once it has expired, and `secrets status` tells before.
        expiresWith = certificate: ''
          date --utc --date "$(${openssl} x509 -in ${certificate} -noout -enddate | cut --delimiter== --fields=2)" +%Y-%m-%dT%H:%M:%SZ >"$out/expires_at"
        '';
      in
      {
        # The certificate of the authority itself: nothing in it is secret.
        readClusterCa =
          { impureOn }:
          final.mkImpureSecretGenerator ''
            sudo cat /var/lib/hsm/ca.crt >"$out/public"
            ${expiresWith "\"$out/public\""}
          '' impureOn;

        # A key, and a certificate for it. The key is made on the host with the HSM, in a folder in memory that is gone afterwards,
        # and leaves it encrypted to its owners.
        mkClusterCert =
          {
            # The subject, for example { CN = "admin"; O = "system:masters"; }.
            subject,
            # Further names, for example [ "DNS:kubernetes" "IP:10.0.0.1" ].
            sans ? [ ],
            days ? 365,
            impureOn,
          }:
          final.mkImpureSecretGenerator ''
            ${openssl} genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key.pem
            ${openssl} req -new -key key.pem -out request.pem \
              -subj ${lib.escapeShellArg (lib.concatStrings (lib.mapAttrsToList (name: value: "/${name}=${value}") subject))} \
              ${lib.optionalString (sans != [ ]) "-addext subjectAltName=${lib.concatStringsSep "," sans}"}
            sudo hsm-openssl x509 -req -days ${toString days} -copy_extensions copy -set_serial "0x$(${openssl} rand -hex 16)" \
              -CA /var/lib/hsm/ca.crt -CAkey "pkcs11:token=cluster;object=cluster-ca;type=private" <request.pem >certificate.pem

            encrypt <key.pem >"$out/secret"
            cat certificate.pem >"$out/public"
            ${expiresWith "certificate.pem"}
          '' impureOn;
      }
    )
  ];
}
