# system.build.toplevel: everything above in one store path, laid out as NixOS does.
{ lib, config, pkgs, extendModules, noUserModules, ... }:
let
  inherit (lib) concatMapStrings escapeShellArg mkOption types;
  option = type: default: mkOption { inherit type default; description = "As in NixOS."; };
  platform = pkgs.stdenv.hostPlatform.system;
  label = "stand-in-${config.system.nixos.release}";
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  failedText = "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (m: "- ${m}") failed}";
  loader = config.boot.loader;
  preSwitchChecks = "#!/bin/bash\nset -e\n" + lib.concatStrings (lib.mapAttrsToList (name: text: "(\n${text}\n) || { echo 'Pre-switch check ${name} failed' >&2; exit 1; }\n") config.system.preSwitchChecks);

  bootspec = {
    "org.nixos.bootspec.v1" = {
      init = "@out@/init"; initrd = "@out@/initrd"; kernel = "@out@/kernel"; toplevel = "@out@";
      inherit (config.boot) kernelParams; label = "NixOS ${label}"; system = platform;
    };
    "org.nixos.specialisation.v1" = { };
  };

  # All systems share it, as those of one nixpkgs do.
  linux = pkgs.runCommand "linux-stand-in" { } ''
    mkdir -p "$out/modules"
    for each in kernel initrd; do echo "placeholder: the testbed has no $each of its own" > "$out/$each"; done
  '';

  toplevel = pkgs.runCommand "nixos-system-${config.system.name}-${label}"
    { passAsFile = [ "bootspec" ]; bootspec = builtins.toJSON bootspec; extraDependencies = map toString config.system.extraDependencies; } ''
    mkdir -p "$out/bin" "$out/specialisation"
    fill() { sed "s|@out@|$out|g; s|@loader@|$loader|g; s|@limit@|${toString loader.systemd-boot.configurationLimit}|g" "$1" > "$out/$2"; chmod "$3" "$out/$2"; }
    loader=${if loader.systemd-boot.enable then "systemd-boot" else "none"}
    fill ${config.system.build.activationScript} activate 555
    fill ${config.system.build.dryActivationScript} dry-activate 555
    fill ${../system/switch-to-configuration} bin/switch-to-configuration 555
    fill ${../system/install-bootloader} bin/install-bootloader 555
    fill ${../system/init} init 555
    fill ${pkgs.writeScript "pre-switch-checks" preSwitchChecks} pre-switch-checks 555
    fill "$bootspecPath" boot.json 444
    ln -s ${config.system.build.etc}/etc "$out/etc"
    ln -s ${config.system.path} "$out/sw"
    ln -s /usr "$out/systemd"
    for each in kernel initrd; do ln -s ${linux}/$each "$out/$each"; done
    ln -s ${linux}/modules "$out/kernel-modules"
    printf %s ${escapeShellArg (toString config.boot.kernelParams)} > "$out/kernel-params"
    printf %s ${escapeShellArg label} > "$out/nixos-version"
    printf %s ${escapeShellArg platform} > "$out/system"
    printf %s "systemd ${toString config.system.initInterfaceVersion}" > "$out/init-interface-version"
    printf %s "$extraDependencies" > "$out/extra-dependencies"
    ${concatMapStrings (n: "ln -s ${config.specialisation.${n}.configuration.system.build.toplevel} \"$out/specialisation/\"${escapeShellArg n}\n") (lib.attrNames config.specialisation)}
    ${config.system.systemBuilderCommands}
  '';
in
{
  options = {
    specialisation = option
      (types.attrsOf (types.submodule ({ config, ... }:
        let extend = if config.inheritParentConfig then extendModules else noUserModules.extendModules; in {
        options.inheritParentConfig = option types.bool true;
        options.configuration = mkOption {
          default = { };
          description = "Modules on top of the system's own.";
          inherit (extend { modules = [ { specialisation = lib.mkOverride 0 { }; } ]; }) type;
        };
      })))
      { };
    system = {
      build = option (types.submodule { freeformType = types.lazyAttrsOf (types.uniq types.unspecified); }) { };
      stateVersion = option types.str config.system.nixos.release;
      name = option types.str (if config.networking.hostName == "" then "unnamed" else config.networking.hostName);
      nixos = { release = option types.str lib.trivial.release; label = option types.str label; tags = option (types.listOf types.str) [ ]; };
      configurationRevision = option (types.nullOr types.str) null;
      extraDependencies = option (types.listOf types.unspecified) [ ];
      systemBuilderCommands = option types.lines "";
      initInterfaceVersion = option types.int 2;
      preSwitchChecks = option (types.attrsOf types.str) { };
      switch.enable = option types.bool true;
      path = mkOption { internal = true; type = types.package; description = "environment.systemPackages in one folder."; };
    };
  };
  config = {
    system.path = pkgs.buildEnv { name = "system-path"; paths = config.environment.systemPackages; };
    system.build.toplevel = if failed == [ ] then lib.showWarnings config.warnings toplevel else throw failedText;
    system.build.installBootLoader = "${toplevel}/bin/install-bootloader";
  };
}
