# The checks that every fleet has. Only those that fail become entries of `checks`, so that a thousand hosts in order cost nothing.
{
  config,
  fleetChecks,
  fleetNames,
  lib,
  ...
}:
let
  inherit (config) hosts;
  inherit (fleetChecks) sentence;
  inherit (lib)
    attrNames
    attrValues
    concatMap
    concatMapStringsSep
    elem
    filter
    groupBy
    length
    listToAttrs
    optional
    ;

  allNames = attrNames hosts;
  # A name that is none is also a bad address, and the name is what has to be said.
  names = filter fleetNames.isHostName allNames;
  entry = name: "hosts.${fleetNames.attr name}";

  failing = id: ignorable: message: {
    name = id;
    value = {
      assertion = false;
      inherit ignorable message;
    };
  };

  invalidName =
    name:
    failing "host-name/${name}" false ''
      ${entry name}: ${
        if elem name fleetNames.reservedHosts then
          "the name has another meaning for fleet"
        else
          "the name is no host name"
      }.
      Rename the host: 1 to 63 letters, digits, - and _, with a letter or a digit at both ends, and none of ${sentence fleetNames.reservedHosts}.
      Where only the NixOS host name should differ, set networking.hostName in ${entry name}.nixos.
    '';

  noSystem =
    name:
    failing "host-system/${name}" false ''
      ${entry name}.system is not set, so nothing can be built for this host.
      Set it: ${entry name}.system = "x86_64-linux"; or one of ${sentence fleetNames.targetSystems}.
    '';

  # What makes two hosts the same machine. A null port or jump host is whatever the ssh configuration says.
  place = name: builtins.toJSON { inherit (hosts.${name}.deploy) address port jumpHosts; };

  duplicate =
    group:
    let
      inherit (hosts.${builtins.head group}.deploy) address port jumpHosts;
    in
    failing "duplicate-address/${lib.concatStringsSep "+" group}" true ''
      ${sentence (map entry group)} are deployed to the same machine: deploy.address "${address}"${
        if port == null then "" else ", deploy.port ${toString port}"
      }${
        if jumpHosts == null || jumpHosts == [ ] then
          ""
        else
          " through ${lib.concatStringsSep ", " jumpHosts}"
      }.
      Each would undo the other. Set another address, port or jump host: ${
        concatMapStringsSep " or " (name: "${entry name}.deploy.address") group
      }.
    '';

  builderOf = name: hosts.${name}.deploy.buildOn;

  isHost =
    builder:
    !elem builder [
      "operator"
      "target"
    ];

  unknownBuilder =
    name:
    failing "build-on/${name}" false ''
      ${entry name}.deploy.buildOn is "${builderOf name}", ${
        if builderOf name == name then
          "which is the host itself"
        else
          "and the fleet has no host of that name"
      }.
      Set it to "operator", "target"${
        let
          others = filter (other: other != name) names;
        in
        if others == [ ] then
          ""
        else
          ", or another host: ${sentence (lib.take 5 others)}${if length others > 5 then " …" else ""}"
      }.
    '';

  # What is wrong with the relay of a host, null where that is nothing.
  relayFault =
    name:
    let
      inherit (hosts.${name}.deploy) relay;
      other = hosts.${relay}.deploy;
    in
    if relay == null then
      null
    else if relay == name then
      "which is the host itself"
    else if !(hosts ? ${relay}) then
      "and the fleet has no host of that name"
    else if other.relay != null then
      "which has a relay itself: ${entry relay}.deploy.relay is \"${other.relay}\""
    else if other.address == "local" then
      "the machine that deploys, which other hosts do not find by its address \"local\""
    else
      null;

  wrongRelay =
    name:
    failing "relay/${name}" false ''
      ${entry name}.deploy.relay is "${hosts.${name}.deploy.relay}", ${relayFault name}.
      Name another host that is sent its paths directly, or set ${entry name}.deploy.relay to null.
    '';

  localWithSsh =
    name:
    failing "local-address/${name}" false ''
      ${entry name}.deploy.address is "local", the machine that deploys, which is not reached by SSH, but port, user or jumpHosts is set.
      Remove those, or set ${entry name}.deploy.address to the host's address.
    '';

  # The hosts that build for each other in a circle are each on the way to themselves.
  buildsForItself =
    name:
    let
      follow =
        seen: at:
        let
          next = builderOf at;
        in
        if !isHost next || !(hosts ? ${next}) || elem next seen then
          next == name
        else
          follow (seen ++ [ next ]) next;
    in
    isHost (builderOf name) && builderOf name != name && follow [ name ] name;

  circle = group: failing "build-circle" false ''
    ${sentence (map entry group)} build for each other in a circle (deploy.buildOn).
    Set deploy.buildOn of one of them to "operator" or "target".
  '';

  isLocalWithSsh =
    { deploy, ... }:
    deploy.address == "local"
    && (deploy.port != null || deploy.user != null || !elem deploy.jumpHosts [ null [ ] ]);

  circular = filter buildsForItself names;
in
{
  _class = "fleet";

  checks = listToAttrs (
    map invalidName (filter (name: !fleetNames.isHostName name) allNames)
    ++ map noSystem (filter (name: !hosts.${name}.systemIsSet) names)
    ++ map duplicate (filter (group: length group > 1) (attrValues (groupBy place names)))
    ++ concatMap (
      name:
      optional (
        isHost (builderOf name) && (builderOf name == name || !(hosts ? ${builderOf name}))
      ) (unknownBuilder name)
    ) names
    ++ optional (circular != [ ]) (circle circular)
    ++ map wrongRelay (filter (name: relayFault name != null) names)
    ++ map localWithSsh (filter (name: isLocalWithSsh hosts.${name}) names)
  );
}
