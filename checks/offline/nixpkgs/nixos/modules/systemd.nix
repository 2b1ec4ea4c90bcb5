# systemd.<kind>: real unit files, in the toplevel at etc/systemd/system.
{ lib, config, pkgs, ... }:
let
  inherit (lib) concatMapStrings concatStringsSep escapeShellArg mapAttrsToList mkIf mkMerge mkOption optionalAttrs optionalString types;
  option = type: default: mkOption { inherit type default; description = "As in NixOS."; };
  strings = option (types.listOf types.str) [ ];
  scalar = types.nullOr (types.oneOf [ types.bool types.int types.float types.str types.path types.package ]);
  section = option (types.attrsOf (types.either scalar (types.listOf scalar))) { };
  relations = {
    after = "After"; before = "Before"; requires = "Requires"; wants = "Wants"; bindsTo = "BindsTo"; partOf = "PartOf";
    conflicts = "Conflicts"; requisite = "Requisite"; onFailure = "OnFailure"; onSuccess = "OnSuccess"; upholds = "Upholds"; documentation = "Documentation";
  };
  installs = { wantedBy = null; requiredBy = null; aliases = null; };
  triggers = kind: list: optionalAttrs (list != [ ]) { "X-${kind}-Triggers" = "${pkgs.writeText "X-${kind}-Triggers" (concatStringsSep "\n" (map builtins.toJSON list))}"; };

  common = {
    options = lib.mapAttrs (_: _: strings) (relations // installs) // {
      description = option types.str "";
      unitConfig = section;
      reloadIfChanged = option types.bool false;
    } // lib.genAttrs [ "enable" "stopIfChanged" "restartIfChanged" ] (_: option types.bool true)
    // lib.genAttrs [ "restartTriggers" "reloadTriggers" ] (_: option (types.listOf types.unspecified) [ ])
    // lib.genAttrs [ "startLimitBurst" "startLimitIntervalSec" ] (_: option (types.nullOr types.int) null);
  };
  service = { name, config, ... }: {
    options = lib.genAttrs [ "script" "preStart" "postStart" "preStop" "postStop" "reload" ] (_: option types.lines "") // {
      serviceConfig = section;
      environment = option (types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package types.int ]))) { };
      path = option (types.listOf (types.oneOf [ types.package types.str ])) [ ];
      scriptArgs = option types.str "";
      startAt = option (types.coercedTo types.str lib.singleton (types.listOf types.str)) [ ];
      enableDefaultPath = option types.bool true;
    };
    config.serviceConfig =
      let
        run = what: text: lib.optionalAttrs (text != "") {
          ${what} = "${pkgs.writeShellScript "unit-script-${lib.strings.sanitizeDerivationName name}-${what}" "set -e\n${text}"}" + optionalString (what == "ExecStart" && config.scriptArgs != "") " ${config.scriptArgs}";
        };
      in
      mkMerge (mapAttrsToList (what: n: run what config.${n}) {
        ExecStart = "script"; ExecStartPre = "preStart"; ExecStartPost = "postStart"; ExecStop = "preStop"; ExecStopPost = "postStop"; ExecReload = "reload";
      });
  };
  with' = name: optionalAttrs (name != null) { options.${name} = section; };
  kinds = { services = "Service"; timers = "Timer"; sockets = "Socket"; paths = "Path"; mounts = "Mount"; slices = "Slice"; targets = null; };
  configOf = { services = null; targets = null; timers = "timerConfig"; sockets = "socketConfig"; paths = "pathConfig"; mounts = "mountConfig"; slices = "sliceConfig"; };

  show = v: if v == true then "true" else if v == false then "false" else toString v;
  assignments = attrs: lib.concatStrings (mapAttrsToList
    (n: v: concatMapStrings (x: "${n}=${show x}\n") (lib.filter (x: x != null) (lib.toList v)))
    attrs);
  heading = name: attrs: optionalString (attrs != { }) "[${name}]\n${assignments attrs}\n";
  unitSection = u: lib.filterAttrs (_: v: v != [ ]) (lib.mapAttrs' (n: key: lib.nameValuePair key (lib.optional (u.${n} != [ ]) (toString u.${n}))) relations)
    // optionalAttrs (u.description != "") { Description = u.description; }
    // triggers "Restart" u.restartTriggers // triggers "Reload" u.reloadTriggers
    // optionalAttrs (u.startLimitBurst != null) { StartLimitBurst = u.startLimitBurst; }
    // optionalAttrs (u.startLimitIntervalSec != null) { StartLimitIntervalSec = u.startLimitIntervalSec; }
    // u.unitConfig;
  serviceSection = u:
    let
      path = concatStringsSep ":" (map (p: "${p}/bin") u.path ++ lib.optional u.enableDefaultPath "/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
      variables = { PATH = path; } // u.environment;
    in
    { Environment = mapAttrsToList (n: v: builtins.toJSON "${n}=${toString v}") (lib.filterAttrs (_: v: v != null) variables); }
    // optionalAttrs u.reloadIfChanged { X-ReloadIfChanged = true; }
    // optionalAttrs (!u.restartIfChanged) { X-RestartIfChanged = false; }
    // optionalAttrs (!u.stopIfChanged) { X-StopIfChanged = false; }
    // u.serviceConfig;
  # Never empty: systemd takes an empty file for a masked unit.
  textOf = kind: u: "[Unit]\n${assignments (unitSection u)}\n" + (
    if kind == "services" then heading "Service" (serviceSection u)
    else if configOf.${kind} == null then ""
    else heading kinds.${kind} u.${configOf.${kind}});
  suffixOf = kind: lib.removeSuffix "s" kind;
  asUnits = kind: lib.mapAttrs' (name: u: lib.nameValuePair "${name}.${suffixOf kind}" {
    inherit (u) enable wantedBy requiredBy aliases;
    text = textOf kind u;
  });

  installUnit = name: u:
    let
      file = escapeShellArg name;
      link = dir: target: "mkdir -p ${escapeShellArg "${target}.${dir}"} && ln -s ../${file} ${escapeShellArg "${target}.${dir}"}/${file}\n";
    in
    if !u.enable then "ln -s /dev/null ${file}\n"
    else "ln -s ${u.unit}/${name} ${file}\n" + concatMapStrings (link "wants") u.wantedBy + concatMapStrings (link "requires") u.requiredBy
      + concatMapStrings (a: "ln -s ${file} ${escapeShellArg a}\n") u.aliases;
in
{
  options.systemd = lib.mapAttrs (kind: _: option (types.attrsOf (types.submodule (
    [ common (with' configOf.${kind}) ] ++ lib.optional (kind == "services") service
  ))) { }) kinds // {
    units = option (types.attrsOf (types.submodule ({ name, config, ... }: {
      options = lib.mapAttrs (_: _: strings) installs // {
        enable = option types.bool true;
        text = option (types.nullOr types.str) null;
        unit = mkOption { type = types.package; internal = true; description = "A folder with the unit's file."; };
      };
      config.unit = lib.mkDefault (pkgs.writeTextFile { name = "unit-${lib.strings.sanitizeDerivationName name}"; destination = "/${name}"; inherit (config) text; });
    }))) { };
    tmpfiles.rules = strings;
    sysusers.enable = option types.bool false;
    settings.Manager = option (types.attrsOf types.anything) { };
  } // lib.genAttrs [ "user" "network" "coredump" ] (_: option types.raw { });
  config = {
    # Restarted by each switch: what has to be done anew before anything else is started is required by it, and ordered before it.
    systemd.targets.sysinit-reactivation.description = "Reactivate sysinit units";
    systemd.units = mkMerge (mapAttrsToList asUnits (lib.getAttrs (lib.attrNames kinds) config.systemd));
    systemd.timers = lib.mapAttrs (_: s: { wantedBy = [ "timers.target" ]; timerConfig.OnCalendar = s.startAt; })
      (lib.filterAttrs (_: s: s.enable && s.startAt != [ ]) config.systemd.services);
    environment.etc."systemd/system".source = pkgs.runCommand "system-units" { } (
      "mkdir -p \"$out\" && cd \"$out\"\n" + lib.concatStrings (mapAttrsToList installUnit config.systemd.units));
    environment.etc."tmpfiles.d/00-nixos.conf" = mkIf (config.systemd.tmpfiles.rules != [ ]) { text = concatStringsSep "\n" config.systemd.tmpfiles.rules + "\n"; };
  };
}
