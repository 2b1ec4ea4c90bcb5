# system.activationScripts: snippets in the order of their dependencies, that go on after a failure and report it at the end.
{ lib, config, pkgs, ... }:
let
  inherit (lib) concatMapStrings mkOption types;
  option = type: default: mkOption { inherit type default; description = "As in NixOS."; };
  snippet = types.either types.str (types.submodule {
    options = { text = option types.lines ""; deps = option (types.listOf types.str) [ ]; supportsDryActivation = option types.bool false; };
  });
  asSnippet = s: if builtins.isString s then { text = s; deps = [ ]; supportsDryActivation = false; } else s;
  ordered = scripts:
    let sorted = lib.toposort (a: b: lib.elem a scripts.${b}.deps) (lib.attrNames scripts); in
    sorted.result or (throw "system.activationScripts depend on each other: ${toString sorted.cycle}");
  body = scripts: concatMapStrings
    (name: ''
      #### Activation script snippet ${name}:
      _localstatus=0
      ${scripts.${name}.text}

      if (( _localstatus > 0 )); then
        printf "Activation script snippet '%s' failed (%s)\n" ${lib.escapeShellArg name} "$_localstatus"
      fi
    '')
    (ordered scripts);
  script = scripts: ''
    #!/bin/bash
    systemConfig=@out@
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    umask 0022
    _status=0
    trap "_status=1 _localstatus=\$?" ERR
  '' + body scripts;
  all = lib.mapAttrs (_: asSnippet) config.system.activationScripts;
in
{
  options.system = lib.genAttrs [ "activationScripts" "userActivationScripts" ] (_: option (types.attrsOf snippet) { });
  config.system.activationScripts = {
    var = "mkdir -p /var/empty /nix/var/nix/gcroots /run/nixos\n";
    hostname = lib.optionalString (config.networking.hostName != "") ''
      hostname -b ${lib.escapeShellArg config.networking.hostName} 2>/dev/null || hostname ${lib.escapeShellArg config.networking.hostName}
    '';
    ssh = { deps = [ "etc" ]; text = "/bin/bash ${../system/setup-ssh} ${lib.boolToString config.services.openssh.enable}\n"; };
    tmpfiles = { deps = [ "etc" ]; text = lib.optionalString (config.systemd.tmpfiles.rules != [ ]) "systemd-tmpfiles --create /etc/tmpfiles.d/00-nixos.conf || true\n"; };
  };
  config.system.build = {
    activationScript = pkgs.writeScript "activate" (script all + ''

      ln -sfn "$(readlink -f "$systemConfig")" /run/current-system
      ln -sfn /run/current-system /nix/var/nix/gcroots/current-system
      exit $_status
    '');
    dryActivationScript = pkgs.writeScript "dry-activate" (script (lib.mapAttrs (_: s: if s.supportsDryActivation then s else s // { text = "#"; }) all) + "\nexit $_status\n");
  };
}
