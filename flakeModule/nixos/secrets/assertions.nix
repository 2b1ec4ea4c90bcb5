# What must hold before a system with secrets is built. NixOS tells of all that fails at once.
{
  config,
  fleetNames,
  fleetSecrets,
  host,
  lib,
  ...
}:
let
  inherit (lib)
    attrNames
    attrValues
    concatLists
    concatMapStringsSep
    filter
    mapAttrsToList
    optional
    ;
  inherit (config.system.build.fleetSecrets) missing problems;

  secrets = attrValues config.secrets;
  option = name: "secrets.${fleetNames.attr name} of the host ${host.name}";
  template = name: "secretTemplates.${fleetNames.attr name} of the host ${host.name}";

  failing = message: {
    assertion = false;
    inherit message;
  };

  # A person has to give what no generator makes.
  remedy =
    secret: if secret.generator == null then "${fleetSecrets.command} set ${secret.id}" else "${fleetSecrets.command} sync";

  lacking = ''
    The state does not have these secrets for the host ${host.name}, or not as they are declared: ${
      lib.concatStringsSep ", " (map (secret: secret.id) missing)
    }.
    ${concatMapStringsSep "\n" (command: "Run: ${command}") (lib.unique (map remedy missing))}
    Then commit the files, or tell git of them: git add -N fleet-state
  '';

  ownership =
    what:
    { owner, group, ... }:
    optional (!(config.users.users ? ${owner})) (failing ''
      ${what}.owner is "${owner}", and the host has no user of that name.
      Declare it: users.users.${fleetNames.attr owner}; or correct the name.
    '')
    ++ optional (!(config.users.groups ? ${group})) (failing ''
      ${what}.group is "${group}", and the host has no group of that name.
      Declare it: users.groups.${fleetNames.attr group}; or set ${what}.group.
    '');

  ofUsers =
    secret:
    optional (secret.neededForUsers && (secret.owner != "root" || secret.group != "root")) (failing ''
      ${option secret._fleet.name} is neededForUsers, and belongs to ${secret.owner}:${secret.group}, who do not exist before users are made.
      Leave owner and group to root, or remove neededForUsers.
    '');

  knownParts =
    { entry, declared, ... }:
    if entry != null then
      attrNames entry.meta.parts
    else if declared != null then
      attrNames declared
    else
      null;

  ofCredentials =
    secret:
    let
      parts = knownParts secret._fleet;
    in
    concatLists (
      mapAttrsToList (
        credential: part:
        optional (parts != null && !lib.elem part parts) (failing ''
          ${option secret._fleet.name}.credentials.${fleetNames.attr credential} is the part "${part}", and the secret has ${lib.concatStringsSep ", " parts}.
          Name one of these.
        '')
        ++ optional (!fleetNames.isSecretName credential) (failing ''
          ${option secret._fleet.name}.credentials has ${builtins.toJSON credential}, which is no name of a credential.
          Rename it: letters, digits, _ . and -.
        '')
      ) secret.credentials
    );

  # By what is to be unique, the names of those that have it.
  duplicates =
    message: pairs:
    mapAttrsToList message (
      lib.filterAttrs (_: users: lib.length users > 1) (
        lib.mapAttrs (_: map (pair: pair.of)) (lib.groupBy (pair: pair.key) pairs)
      )
    );

  twoOfOneCredential = duplicates (
    key: users:
    failing ''
      The credential ${key} is that of several secrets of the host ${host.name}: ${lib.concatStringsSep ", " users}.
      Rename it in all but one of them.
    ''
  ) (
    lib.concatMap (
      secret: map (key: { inherit key; of = secret._fleet.name; }) (attrNames secret.credentials)
    ) secrets
  );

  twoAtOnePath = duplicates (
    key: users:
    failing ''
      Several templates of the host ${host.name} are at ${key}: ${lib.concatStringsSep ", " users}.
      Give each a path of its own.
    ''
  ) (
    mapAttrsToList (name: { path, ... }: {
      key = path;
      of = name;
    }) config.secretTemplates
  );

  ofTemplate =
    name: value:
    ownership (template name) value
    ++ optional (!fleetNames.isSecretName name) (failing ''
      ${template name}: the name is no name of a file in /run/secrets-rendered.
      Rename it: letters, digits, _ . and -; and set path to where the file should be.
    '')
    ++ optional (builtins.match "/[^\n]*" value.path == null) (failing ''
      ${template name}.path is ${builtins.toJSON value.path}, which is no absolute path.
      Begin it with a slash.
    '');
in
{
  assertions =
    map failing problems
    ++ optional (problems == [ ] && missing != [ ]) (failing lacking)
    ++ lib.concatMap (
      secret: ownership (option secret._fleet.name) secret ++ ofUsers secret ++ ofCredentials secret
    ) secrets
    ++ twoOfOneCredential
    ++ twoAtOnePath
    ++ concatLists (mapAttrsToList ofTemplate config.secretTemplates);
}
