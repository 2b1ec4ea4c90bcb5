# environment.etc: a tree of links in the toplevel, that activation puts into /etc.
{ lib, config, options, pkgs, ... }:
let
  inherit (lib) concatMapStrings escapeShellArg mkDerivedConfig mkIf mkOption types;
  option = type: default: mkOption { inherit type default; description = "As in NixOS."; };
  entry = { name, config, options, ... }: {
    options = {
      enable = option types.bool true;
      target = option types.str name;
      text = option (types.nullOr types.lines) null;
      source = mkOption { type = types.path; description = "The file's contents."; };
      mode = option types.str "symlink";
      uid = option types.int 0; user = option types.str "+${toString config.uid}";
      gid = option types.int 0; group = option types.str "+${toString config.gid}";
    };
    config.source = mkIf (config.text != null) (mkDerivedConfig options.text (pkgs.writeText ("etc-" + lib.strings.sanitizeDerivationName name)));
  };
  ssh = config.services.openssh;
  show = v: if v == true then "yes" else if v == false then "no" else if builtins.isList v then lib.concatStringsSep "," v else toString v;
in
{
  options.environment.etc = option (types.attrsOf (types.submodule entry)) { };
  config = {
    environment.etc = {
      hostname = mkIf (config.networking.hostName != "") { text = config.networking.hostName + "\n"; };
      "ssh/sshd_config.d/10-nixos.conf" = mkIf ssh.enable {
        text = concatMapStrings (p: "Port ${toString p}\n") ssh.ports
          + "AuthorizedKeysFile ${toString ssh.authorizedKeysFiles}\n"
          + lib.concatStrings (lib.mapAttrsToList (n: v: lib.optionalString (v != null) "${n} ${show v}\n") ssh.settings)
          + ssh.extraConfig;
      };
      "sudoers.d/10-nixos" = mkIf config.security.sudo.enable {
        text = "Defaults secure_path=/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
          + lib.optionalString (!config.security.sudo.wheelNeedsPassword) "%wheel ALL=(ALL:ALL) NOPASSWD: ALL\n";
        mode = "0440";
      };
      hosts = mkIf (config.networking.hosts != { } || config.networking.extraHosts != "") {
        text = "127.0.0.1 localhost\n::1 localhost\n"
          + lib.concatStrings (lib.mapAttrsToList (ip: names: "${ip} ${toString names}\n") config.networking.hosts)
          + config.networking.extraHosts;
      };
    };
    # Files that are no links say in <file>.mode how they are to be copied, as in NixOS' own tree.
    system.build.etc = pkgs.runCommand "etc" { } (''
      mkdir -p "$out/etc" && cd "$out/etc"
    '' + concatMapStrings
      (f: ''
        mkdir -p "$(dirname ${escapeShellArg f.target})"
        ln -s ${f.source} ${escapeShellArg f.target}
        ${lib.optionalString (f.mode != "symlink") "echo ${escapeShellArg "${f.mode} ${lib.removePrefix "+" f.user} ${lib.removePrefix "+" f.group}"} > ${escapeShellArg f.target}.mode"}
      '')
      (lib.filter (f: f.enable) (lib.attrValues config.environment.etc)));
    system.activationScripts.etc = { deps = [ "users" "groups" ]; text = "/bin/bash ${../system/setup-etc} ${config.system.build.etc}/etc\n"; };
  };
}
