# The checks of a fleet's secrets. As with the others, only those that fail become entries of `checks`.
{
  config,
  fleetChecks,
  fleetNames,
  fleetSecretGraph,
  fleetSecrets,
  lib,
  ...
}:
let
  inherit (config) hosts;
  inherit (fleetSecrets) shared state;
  inherit (lib)
    attrNames
    concatLists
    concatMap
    filter
    filterAttrs
    listToAttrs
    mapAttrsToList
    optional
    ;

  entry = name: "sharedSecrets.${fleetNames.attr name}";
  valid = filterAttrs (name: _: fleetNames.isSecretName name) shared;

  failing = id: ignorable: message: {
    name = id;
    value = {
      assertion = false;
      inherit ignorable message;
    };
  };

  invalidName =
    name:
    failing "secret-name/${name}" false ''
      ${entry name}: the name is no name of a secret, which becomes the name of files.
      Rename it: letters, digits, _ . and -, beginning with a letter, a digit or one _, and at most 128 of them.
    '';

  unknownOwner =
    name: owner:
    if lib.hasPrefix "@" owner then
      failing "secret-owner/${name}/${owner}" true ''
        ${entry name}.expectedOwners has "${owner}", and no host has this tag.
        Correct the tag, or give it to a host: hosts.<name>.tags = [ "${lib.removePrefix "@" owner}" ];
      ''
    else
      failing "secret-owner/${name}/${owner}" false ''
        ${entry name}.expectedOwners has "${owner}", and the fleet has no host of that name.
        Correct the name, add the host, or write "@${owner}" where a tag is meant.
      '';

  invalidPart =
    name: part:
    failing "secret-part/${name}/${part}" false ''
      ${entry name}: its part ${builtins.toJSON part} cannot have this name${
        lib.optionalString (lib.elem part fleetNames.reservedParts) ", which means something else"
      }.
      Rename the part: letters, digits, _ . and -, and none of ${fleetChecks.sentence fleetNames.reservedParts}.
    '';

  unknownHost =
    name: host:
    failing "secret-host/${name}" false ''
      ${entry name}.generator runs on "${host}" (impureOn), and the fleet has no host of that name.
      Correct the name, or add the host.
    '';

  unknownDependency =
    name: alias: id:
    failing "secret-dependency/${name}/${alias}" false ''
      ${entry name}.generator depends on ${id}, and there is no such secret.
      Correct the name, declare the secret, or write "host/<host>/<name>" for a host's own.
    '';

  cycle =
    ids:
    failing "secret-cycle" false ''
      These secrets are made from each other in a circle: ${lib.concatStringsSep " → " ids}.
      Remove one of these dependencies.
    '';

  strangeState =
    failing "secret-state" false ''
      The state says that it has format ${builtins.toJSON state.format}, and this version of fleet reads format "1".
      Use the version of fleet that wrote it: nix flake update fleet.
    '';

  otherKey =
    name: key:
    failing "host-key/${name}" false ''
      hosts.${fleetNames.attr name}: the state has pinned the key ${builtins.substring 0 40 key}…, which is none of deploy.hostKeys.
      Compare both with the host's own /etc/ssh/*.pub on its console. Then correct deploy.hostKeys, or delete hosts/${name}.json in the fleet's state.
    '';

  exists =
    id:
    let
      path = lib.splitString "/" id;
    in
    if lib.head path == "shared" then
      shared ? ${lib.last path}
    else
      # Whether a host has declared it is known when the host is evaluated.
      lib.length path == 3 && lib.head path == "host" && hosts ? ${lib.elemAt path 1};

  ofGenerator =
    name: secret:
    let
      inherit (secret.spec) generator;
    in
    if generator == null then
      [ ]
    else
      optional (generator.on != null && !(hosts ? ${generator.on})) (unknownHost name generator.on)
      ++ concatLists (
        mapAttrsToList (alias: id: optional (!exists id) (unknownDependency name alias id)) generator.dependencies
      );

  ofParts =
    name: secret:
    let
      parts = if secret.spec.parts == null then { } else secret.spec.parts;
    in
    map (invalidPart name) (filter (part: !fleetNames.isPartName part) (attrNames parts));

  circle = fleetSecretGraph.cycle (
    lib.mapAttrs' (name: secret: lib.nameValuePair "shared/${name}" (fleetSecrets.dependencies secret.spec)) valid
  );

  # "type base64", without what may follow.
  bare = key: lib.concatStringsSep " " (lib.take 2 (lib.splitString " " key));

  pinned =
    name: host:
    let
      inherit (host.deploy) hostKeys;
      foreign = filter (key: !lib.elem key (map bare hostKeys)) (map bare (state.pins name));
    in
    optional (hostKeys != [ ] && foreign != [ ]) (otherKey name (lib.head foreign));
in
{
  _class = "fleet";

  checks = listToAttrs (
    map invalidName (filter (name: !fleetNames.isSecretName name) (attrNames shared))
    ++ concatLists (mapAttrsToList (name: secret: map (unknownOwner name) secret.unknown) valid)
    ++ concatLists (mapAttrsToList ofParts valid)
    ++ concatLists (mapAttrsToList ofGenerator valid)
    ++ optional (circle != null) (cycle circle)
    ++ optional (!lib.elem state.format [ null "1" ]) strangeState
    ++ concatLists (mapAttrsToList pinned (filterAttrs (name: _: fleetNames.isHostName name) hosts))
  );
}
