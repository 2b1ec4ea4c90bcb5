# The secrets of one host: its own and those that it shares.
{
  lib,
  call,
  graph,
  names,
  parts,
  programs,
  specs,
}:
let
  inherit (lib)
    attrNames
    attrValues
    concatLists
    concatMap
    elem
    filter
    filterAttrs
    mapAttrs
    mapAttrsToList
    optional
    ;

  # What a value lacks for a host to be able to read it; see Specs.Missing in evaluator/plan/secret.go.
  isMissing =
    entry: host: declared:
    let
      inherit (entry) meta;
      owner = entry.owner host;
      lacks =
        part: { encrypted, ... }:
        !(meta.parts ? ${part})
        || meta.parts.${part}.encrypted != encrypted;
      absent =
        part: { encrypted, ... }:
        if encrypted then !(owner.parts ? ${part}) else entry.public part == null;
      any = predicate: set: lib.any lib.id (mapAttrsToList predicate set);
    in
    entry == null
    || owner == null
    || owner.gen != meta.gen
    || any absent meta.parts
    || (declared != null && any lacks declared);
in
/**
  Type:   { fleet, hosts, mask, shared, state, command, packagesOn } -> String -> Host
  Inputs: as secrets.ofFleet has them, and packagesOn: a host's nixpkgs, a system and overlays -> packages; then the host's name
  Output:
    owned     the shared secrets that the host owns, by name
    view      { names, partsOf } -> String -> what nixosHosts.<other>.secrets is, from the state alone
    describe  { pkgs, overlays } -> String -> values of the options of a secret -> what is known of it, as _fleet in summarize
    summarize { secrets, overlays } -> { specs, missing, problems, programs }
*/
{
  fleet,
  hosts,
  mask,
  shared,
  state,
  command,
  packagesOn,
}:
host:
let
  owned = filterAttrs (_: secret: elem host secret.owners) shared;

  option = name: "secrets.${names.attr name} of the host ${host}";

  entryOf = name: id: if names.isSecretName name then state.secret id else null;

  isOwner = name: other: shared ? ${name} && elem other shared.${name}.owners;

  # One secret: which it is, how it is made, what the state has.
  describe =
    { pkgs, overlays }:
    let
      callHere = call { inherit pkgs overlays mask; };
    in
    resolve: name: declaration:
    let
      isShared = declaration.generator == "shared";
      id = if isShared then "shared/${name}" else "host/${host}/${name}";
      entry = entryOf name id;

      generator =
        if isShared then
          shared.${name}.generator or null
        else if declaration.generator == null then
          null
        else
          callHere (option name) declaration.generator;

      spec = specs.render {
        inherit
          declaration
          generator
          mask
          resolve
          ;
        owners = [ ];
      };

      declared = if isShared then shared.${name}.spec.parts or null else spec.parts;
    in
    {
      inherit
        declaration
        declared
        entry
        generator
        id
        isShared
        name
        spec
        ;
      # A file that is damaged, or in the middle of a merge, hides no other secret: the program reads the state too, and says what it is.
      missing =
        let
          tried = builtins.tryEval (isMissing entry host declared);
        in
        builtins.seq declared (!tried.success || tried.value);
      parts = parts.parts {
        inherit
          id
          name
          entry
          command
          ;
        inherit (parts) placeholder;
        inherit (declaration) neededForUsers;
        parts = declared;
      };
    };

  exists =
    secrets: id:
    let
      path = lib.splitString "/" id;
      scope = lib.head path;
    in
    if scope == "shared" then
      shared ? ${lib.last path}
    else
      lib.length path == 3
      && scope == "host"
      && hosts ? ${lib.elemAt path 1}
      && (lib.elemAt path 1 != host || secrets ? ${lib.last path});

  # What is wrong with declarations, whatever the state holds.
  problemsOf =
    secrets: secret:
    let
      inherit (secret)
        name
        id
        declaration
        declared
        isShared
        ;
      generator = if isShared then null else secret.spec.generator;
      partNames = if declared == null then [ ] else attrNames declared;
    in
    if !names.isSecretName name then
      [
        ''
          ${option name}: the name is no name of a secret, which becomes the name of files.
          Rename it: letters, digits, _ . and -, beginning with a letter, a digit or one _, and at most 128 of them.
        ''
      ]
    else if isShared then
      optional (!(shared ? ${name})) ''
        ${option name} has generator = "shared", and the fleet declares no such secret.
        Declare it: fleetConfigurations.${names.attr fleet}.sharedSecrets.${names.attr name}; or give it a generator here.
      ''
      ++ optional (shared ? ${name} && !isOwner name host) ''
        ${option name} has generator = "shared", but the host is no owner of the shared secret.
        Add it: fleetConfigurations.${names.attr fleet}.sharedSecrets.${names.attr name}.expectedOwners = [ "${host}" ];
      ''
    else
      optional (isOwner name host) ''
        ${option name} and the shared secret of that name, which the host owns, would be at one place.
        Rename one of them, or remove the host's own, where the shared one is meant.
      ''
      ++ map (part: ''
        ${option name}: its part ${builtins.toJSON part} cannot have this name.
        Rename the part: letters, digits, _ . and -, and none of ${lib.concatStringsSep ", " names.reservedParts}.
      '') (filter (part: !names.isPartName part) partNames)
      ++ optional (generator != null && generator.on != null && !(hosts ? ${generator.on})) ''
        ${option name}: its generator runs on "${generator.on}" (impureOn), and the fleet has no host of that name.
        Correct the name, or add the host.
      ''
      ++ map (dependency: ''
        ${option name}: its generator depends on ${dependency}, and there is no such secret.
        Correct the name, or declare the secret.
      '') (filter (dependency: !exists secrets dependency) (specs.dependencies secret.spec));
in
{
  inherit owned describe fleet command;

  view =
    { names, partsOf }:
    other:
    let
      ofOther = attrNames (filterAttrs (_: secret: elem other secret.owners) shared);
      one =
        name:
        let
          isShared = isOwner name other;
          id = if isShared then "shared/${name}" else "host/${other}/${name}";
        in
        parts.parts {
          inherit id name command;
          inherit (parts) placeholder;
          entry = entryOf name id;
          parts = if isShared then shared.${name}.spec.parts else null;
          more = partsOf name;
        };
    in
    # The state knows what another host has. What is to be made is known where this host has a secret of the same name, as in a mesh.
    lib.genAttrs (lib.unique (names ++ ofOther ++ state.secretsOf "host/${other}")) one;

  summarize =
    {
      secrets,
      system,
      overlays,
      buildUsing,
    }:
    let
      own = filterAttrs (_: secret: !secret.isShared) secrets;
      valid = filterAttrs (name: _: names.isSecretName name) own;

      circle = graph.cycle (
        lib.listToAttrs (
          mapAttrsToList (name: secret: lib.nameValuePair secret.id (specs.dependencies secret.spec)) valid
          ++ mapAttrsToList (
            name: secret: lib.nameValuePair "shared/${name}" (specs.dependencies secret.spec)
          ) shared
        )
      );

      problems =
        concatMap (problemsOf secrets) (attrValues secrets)
        ++ optional (own != { } && circle != null) ''
          These secrets are made from each other in a circle: ${lib.concatStringsSep " → " circle}.
          Remove one of these dependencies.
        '';

      missing = filter (secret: secret.missing) (attrValues secrets);

      checked =
        value:
        if problems == [ ] then
          value
        else
          throw ''
            The secrets of the host ${host} are not right.

            ${lib.concatStringsSep "\n" problems}'';
    in
    {
      inherit problems missing;

      specs = checked {
        secrets = mapAttrs (_: secret: secret.spec) own;
        missing = lib.sort builtins.lessThan (map (secret: secret.id) missing);
      };

      programs = programs (
        on:
        mapAttrs (
          name: secret:
          if on == system then
            secret.generator
          else
            call {
              inherit overlays mask;
              pkgs = packagesOn buildUsing on overlays;
            } (option name) secret.declaration.generator
        ) (filterAttrs (_: secret: secret.generator != null) own)
      );
    };
}
