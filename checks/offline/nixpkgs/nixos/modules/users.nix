# users.*: made by activation with the base system's useradd and groupadd. Nothing is ever removed.
{ lib, config, ... }:
let
  inherit (lib) concatMapStrings escapeShellArg mkDefault mkIf mkOption optionalString types;
  option = type: default: mkOption { inherit type default; description = "As in NixOS."; };
  user = { name, config, ... }: {
    options = lib.genAttrs [ "isSystemUser" "isNormalUser" "createHome" "useDefaultShell" ] (_: option types.bool false) // {
      enable = option types.bool true;
      name = option types.str name;
      description = option types.str "";
      uid = option (types.nullOr types.int) null;
      group = option types.str "";
      extraGroups = option (types.listOf types.str) [ ];
      home = option types.path "/var/empty";
      shell = option (types.nullOr (types.either types.package types.path)) null;
      packages = option (types.listOf types.package) [ ];
      hashedPassword = option (types.nullOr types.str) null;
      hashedPasswordFile = option (types.nullOr types.str) null;
      openssh.authorizedKeys = { keys = option (types.listOf types.singleLineStr) [ ]; keyFiles = option (types.listOf types.path) [ ]; };
    };
    config = mkIf config.isNormalUser (lib.mapAttrs (_: mkDefault) { group = "users"; createHome = true; home = "/home/${config.name}"; useDefaultShell = true; });
  };
  group = { name, ... }: {
    options = { name = option types.str name; gid = option (types.nullOr types.int) null; members = option (types.listOf types.str) [ ]; };
  };
  users = lib.filter (u: u.enable) (lib.attrValues config.users.users);
  keysOf = u: u.openssh.authorizedKeys.keys ++ map lib.fileContents u.openssh.authorizedKeys.keyFiles;
  shellOf = u: if u.shell == null then (if u.useDefaultShell then "/bin/bash" else "/usr/sbin/nologin") else if lib.isDerivation u.shell then lib.getExe u.shell else u.shell;
  set = n: v: optionalString (v != null && v != "") " ${n} ${escapeShellArg v}";
in
{
  options.users = {
    users = option (types.attrsOf (types.submodule user)) { };
    groups = option (types.attrsOf (types.submodule group)) { };
    mutableUsers = option types.bool true;
    defaultUserShell = option types.raw "/bin/bash";
  };
  config = {
    users.users.root = { uid = 0; group = "root"; home = "/root"; useDefaultShell = true; isSystemUser = true; };
    users.groups = { root.gid = 0; wheel = { }; users.gid = 100; };
    assertions = lib.concatMap
      (u: [
        { assertion = u.name == "root" || u.isSystemUser != u.isNormalUser; message = "Exactly one of users.users.${u.name}.isSystemUser and users.users.${u.name}.isNormalUser must be set."; }
        { assertion = u.group != ""; message = "users.users.${u.name}.group is unset. This used to default to nogroup, but this is unsafe."; }
      ])
      users;
    environment.etc = lib.listToAttrs (lib.concatMap
      (u: lib.optional (keysOf u != [ ]) (lib.nameValuePair "ssh/authorized_keys.d/${u.name}" { text = lib.concatLines (keysOf u); mode = "0444"; }))
      users);
    system.activationScripts.groups = concatMapStrings
      (g: "getent group ${g.name} >/dev/null || groupadd --system${set "--gid" g.gid} ${g.name}\n")
      (lib.attrValues config.users.groups);
    system.activationScripts.users = {
      deps = [ "groups" ];
      text = concatMapStrings
        (u:
          let
            flags = "${set "--shell" (shellOf u)}${set "--gid" u.group}${set "--groups" (lib.concatStringsSep "," u.extraGroups)}${set "--comment" u.description}";
            file = escapeShellArg u.hashedPasswordFile;
          in
          optionalString (u.name != "root") ''
            getent passwd ${u.name} >/dev/null || useradd --home-dir ${escapeShellArg u.home} --no-create-home${optionalString u.isSystemUser " --system"}${set "--uid" u.uid} --gid ${escapeShellArg u.group} ${u.name}
            usermod${flags} ${u.name} >/dev/null
            ${optionalString u.createHome "[ -d ${u.home} ] || install -d -m 0700 -o ${u.name} -g ${escapeShellArg u.group} ${u.home}"}
          '' + optionalString (u.hashedPassword != null) "usermod --password ${escapeShellArg u.hashedPassword} ${u.name}\n"
          + optionalString (u.hashedPasswordFile != null) ''
            if [ -e ${file} ]; then printf '${u.name}:%s\n' "$(cat ${file})" | chpasswd --encrypted; else echo "warning: password file ‘"${file}"’ does not exist" >&2; fi
          '')
        users + concatMapStrings
        (g: concatMapStrings (m: "gpasswd --add ${m} ${g.name} >/dev/null\n") g.members)
        (lib.attrValues config.users.groups);
    };
  };
}
