# The manifest, and the units that install what is in it. secretsgen/install/manifest.go says what a manifest holds.
{
  config,
  fleetHelper,
  fleetSecrets,
  host,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    attrValues
    filter
    literalExpression
    mapAttrs
    mapAttrsToList
    mkIf
    mkMerge
    mkOption
    optional
    types
    ;

  secrets = attrValues config.secrets;
  any = secrets != [ ] || config.secretTemplates != { };
  anyForUsers = lib.any (secret: secret.neededForUsers) secrets;

  # Where users come from: units of systemd, or NixOS' activation scripts.
  unitsMakeUsers = config.systemd.sysusers.enable or false || config.services.userborn.enable or false;

  renderPart =
    entry: owner: name: part:
    if part.encrypted then
      {
        inherit (part) encrypted commit;
        armor = owner.parts.${name}.armor;
        text = "";
        encoding = "";
      }
    else
      {
        inherit (part) encrypted commit encoding;
        armor = "";
        text = entry.public name;
      };

  # What the state does not have is in no manifest; the assertions have said so.
  renderSecret =
    secret:
    let
      inherit (secret._fleet) entry;
    in
    {
      inherit (secret._fleet) id;
      inherit (entry.meta) gen seq;
      inherit (secret)
        owner
        group
        mode
        neededForUsers
        credentials
        ;
      parts = mapAttrs (renderPart entry (entry.owner host.name)) entry.meta.parts;
    };

  renderTemplate = name: template: {
    inherit name;
    inherit (template)
      owner
      group
      mode
      content
      ;
    path = if template.path == "/run/secrets-rendered/${name}" then "" else template.path;
    neededForUsers = false;
  };

  # The program has the last word on what a manifest is, and has it while the system is built.
  manifest = pkgs.writeTextFile {
    name = "fleet-secrets.json";
    text = builtins.toJSON {
      format = 1;
      inherit (fleetSecrets) fleet;
      host = host.name;
      identities = config.secretIdentities;
      secrets = map renderSecret (filter (secret: !secret._fleet.missing) secrets);
      templates = mapAttrsToList renderTemplate config.secretTemplates;
    };
    checkPhase = "${program} secrets-install --validate --manifest \"$target\"\n";
  };

  program = "${fleetHelper pkgs}/bin/fleet-helper";

  install = phase: "${program} secrets-install --manifest ${manifest} --phase ${phase}";

  unit = phase: {
    wantedBy = [ "sysinit.target" ];
    # What is ordered before sysinit.target is started anew in the right order by this target, when a system is switched to.
    requiredBy = [ "sysinit-reactivation.target" ];
    before = [
      "sysinit.target"
      "sysinit-reactivation.target"
      "shutdown.target"
    ];
    conflicts = [ "shutdown.target" ];
    unitConfig = {
      DefaultDependencies = false;
      RequiresMountsFor = config.secretIdentities ++ [ "/run" ];
    };
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStart = install phase;
      UMask = "0077";
    };
  };

  makeUsers = [
    "systemd-sysusers.service"
    "userborn.service"
  ];
in
{
  options.secretIdentities = mkOption {
    type = types.listOf types.str;
    default =
      let
        ofOpenssh = map (key: key.path) (
          filter (key: lib.elem (key.type or "") [ "ed25519" "rsa" ]) (config.services.openssh.hostKeys or [ ])
        );
      in
      if ofOpenssh != [ ] then
        ofOpenssh
      else
        [
          "/etc/ssh/ssh_host_ed25519_key"
          "/etc/ssh/ssh_host_rsa_key"
        ];
    defaultText = literalExpression "the Ed25519 and RSA keys of services.openssh.hostKeys";
    description = ''
      The files with the private keys that this host's secrets are decrypted with. They have to be there before users are made; what is mounted for them is waited for. Files
      that do not exist are skipped.
    '';
    example = [ "/persist/etc/ssh/ssh_host_ed25519_key" ];
  };

  config = mkIf any (mkMerge [
    {
      environment.etc."fleet/secrets.json".source = manifest;

      systemd.services.fleet-secrets = mkMerge [
        (unit "main")
        {
          description = "Install secrets";
          after =
            lib.optionals unitsMakeUsers makeUsers
            ++ optional (unitsMakeUsers && anyForUsers) "fleet-secrets-users.service";
        }
      ];
    }

    (mkIf (anyForUsers && unitsMakeUsers) {
      systemd.services.fleet-secrets-users = mkMerge [
        (unit "users")
        {
          description = "Install secrets that users are made from";
          before = makeUsers;
        }
      ];
    })

    (mkIf (anyForUsers && !unitsMakeUsers) {
      system.activationScripts = {
        fleet-secrets-users = {
          # With impermanence, host keys come from a script.
          deps = filter (name: config.system.activationScripts ? ${name}) [
            "specialfs"
            "persist-files"
          ];
          text = ''
            ${install "users"}
          '';
        };
        users.deps = [ "fleet-secrets-users" ];
      };
    })
  ]);
}
