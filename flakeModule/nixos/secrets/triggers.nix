# Units that are restarted or reloaded when a value has changed. What changes with a value, and only with it, is its commitment.
{
  config,
  host,
  lib,
  ...
}:
let
  inherit (lib)
    attrValues
    concatMap
    groupBy
    mapAttrs
    optionalAttrs
    ;

  kinds = {
    service = "services";
    socket = "sockets";
    timer = "timers";
    path = "paths";
    target = "targets";
    slice = "slices";
  };

  # "a.service" -> services, a. A name without a kind is a service's.
  parse =
    unit:
    let
      found = builtins.match "(.*)\\.([a-z]+)" unit;
      known = found != null && kinds ? ${lib.last found};
    in
    {
      kind = if known then kinds.${lib.last found} else "services";
      name = if known then lib.head found else unit;
    };

  commitsOf =
    secret:
    let
      inherit (secret._fleet) entry;
    in
    if entry == null then [ ] else map entry.commit (lib.attrNames entry.meta.parts);

  # No regular expression: a template can be long.
  holds = word: text: builtins.replaceStrings [ word ] [ "" ] text != text;

  # What a file that is rendered holds changes with the secrets in it.
  partsIn =
    content: secret:
    let
      inherit (secret._fleet) entry;
    in
    if entry == null then
      [ ]
    else
      map entry.commit (
        lib.filter (part: holds secret._fleet.parts.${part}.placeholder content) (lib.attrNames entry.meta.parts)
      );

  ofTemplate =
    template:
    [ (builtins.hashString "sha256" template.content) ]
    ++ concatMap (partsIn template.content) (attrValues config.secrets);

  # { unit, triggers } for one of the two options.
  wishes =
    option:
    concatMap (secret: map (unit: parse unit // { triggers = commitsOf secret; }) secret.${option}) (
      attrValues config.secrets
    )
    ++ concatMap (template: map (unit: parse unit // { triggers = ofTemplate template; }) template.${option}) (
      attrValues config.secretTemplates
    );

  restart = wishes "restartUnits";
  reload = wishes "reloadUnits";

  # Older NixOS has no reloadTriggers, so what is not wished for must not be named.
  triggersOf =
    wished: option:
    optionalAttrs (wished != [ ]) { ${option} = concatMap (wish: wish.triggers) wished; };

  units =
    kind:
    let
      of = list: groupBy (wish: wish.name) (lib.filter (wish: wish.kind == kind) list);
      restarted = of restart;
      reloaded = of reload;
    in
    mapAttrs (
      name: _:
      triggersOf (restarted.${name} or [ ]) "restartTriggers"
      // triggersOf (reloaded.${name} or [ ]) "reloadTriggers"
    ) (restarted // reloaded);

  # What is made from elsewhere (fstab, the kernel) has no triggers.
  refused = lib.filter (unit: builtins.match ".*\\.(mount|automount|swap|device|scope)" unit != null) (
    lib.unique (map (wish: wish.name) (restart ++ reload))
  );
in
{
  assertions = map (unit: {
    assertion = false;
    message = ''
      The host ${host.name} is to restart or reload ${unit} when a secret changes, which is no unit that this can be said of.
      Name a service, socket, timer, path, target or slice in restartUnits and reloadUnits.
    '';
  }) refused;

  systemd = lib.genAttrs (lib.attrValues kinds) units;
}
