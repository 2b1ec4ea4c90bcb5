# Stands for NixOS' module of GitLab: the options that examples/gitlab sets, and a service that starts only where its user can
# read all that it needs.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.gitlab;
  file = lib.mkOption { type = lib.types.path; description = "As in NixOS."; };
  files = [ cfg.initialRootPasswordFile ] ++ lib.attrValues cfg.secrets;
in
{
  options.services.gitlab = {
    enable = lib.mkEnableOption "GitLab";
    user = lib.mkOption { type = lib.types.str; default = "gitlab"; description = "As in NixOS."; };
    initialRootPasswordFile = file;
    secrets = { secretFile = file; otpFile = file; dbFile = file; jwsFile = file; };
  };
  config = lib.mkIf cfg.enable {
    users.users.gitlab = { isSystemUser = true; group = "gitlab"; };
    users.groups.gitlab = { };
    systemd.services.gitlab = {
      wantedBy = [ "multi-user.target" ];
      serviceConfig = { Type = "oneshot"; RemainAfterExit = true; User = cfg.user; RuntimeDirectory = "gitlab"; };
      script = ''
        for file in ${toString files}; do
          [ -s "$file" ] || { echo "gitlab: $(id -un) cannot read $file" >&2; exit 1; }
          cat "$file" >/dev/null
        done
        ${pkgs.openssl}/bin/openssl rsa -check -noout -in ${cfg.secrets.jwsFile}
        id -un >/run/gitlab/started-by
      '';
    };
  };
}
