# The state of secrets as it is in git, read with builtins alone: docs/architecture.md says what is where. What must be proven without a
# key is proven by the program (checks.<system>.fleet-<name>-secrets); this reads what evaluation needs.
{ lib, names }:
let
  inherit (builtins)
    fromJSON
    pathExists
    readDir
    readFile
    unsafeDiscardStringContext
    ;
  inherit (lib) filter hasPrefix removeSuffix;

  # Files are named as people see them: below the folder of the state.
  broken =
    dir: file: what: remedy:
    throw ''
      The state's file ${lib.removePrefix "${toString dir}/" file} ${what}.
      ${remedy}
    '';

  isConflicted = text: builtins.replaceStrings [ "<<<<<<< " ">>>>>>> " ] [ "" "" ] text != text;

  readJson =
    command: dir: file:
    let
      text = unsafeDiscardStringContext (readFile file);
    in
    if text == "" then
      broken dir file "is empty" "Restore it from git, or delete the folder of its secret and make the secret anew: ${command} sync"
    else if isConflicted text then
      broken dir file "has git's conflict markers" "Take one side of it: ${command} resolve"
    # What fromJSON says cannot be caught, and names no file.
    else if !hasPrefix "{" text || !lib.hasSuffix "}\n" text then
      broken dir file "is no JSON object, or was cut" "Restore it from git: git checkout -- fleet-state"
    else
      builtins.addErrorContext "while reading ${file}" (fromJSON text);

  isName = name: !hasPrefix "." name;
in
/**
  The state in a folder, which need not be there.

  Type:   String -> (Path | String) -> State
  Inputs: the command that messages begin with; the folder
*/
command: dir:
let
  folder = id: "${toString dir}/secrets/${id}";
  json = readJson command dir;

  # Ids come from names of attributes, which can be anything.
  isId =
    id:
    let
      parts = lib.splitString "/" id;
    in
    lib.all names.isSecretName parts;

  entry =
    id:
    let
      at = folder id;
      meta = json "${at}/meta.json";
    in
    {
      inherit meta;
      owner =
        host:
        let
          file = "${at}/owners/${host}.json";
        in
        if pathExists file then json file else null;
      commit =
        part:
        let
          commit = meta.parts.${part}.commit or null;
        in
        if lib.isString commit && builtins.match "[0-9a-f]{64}" commit != null then
          commit
        else
          broken dir "${at}/meta.json" "has no commitment of the part ${part}" "Restore it from git: ${command} status";
      # A public part's file, in the encoding that meta.json says.
      public =
        part:
        let
          file = "${at}/public/${part}";
        in
        if pathExists file then unsafeDiscardStringContext (readFile file) else null;
    };
in
{
  /**
    Whether there is a folder at all.

    Type:   Bool
  */
  exists = pathExists dir;

  /**
    The version of the state's files, as text; null where it says none.

    Type:   null | String
  */
  format =
    let
      file = "${toString dir}/format";
    in
    if pathExists file then removeSuffix "\n" (unsafeDiscardStringContext (readFile file)) else null;

  /**
    What the state has of a secret, or null.

    Type:   String -> null | { meta, owner :: String -> null | Owner, commit :: String -> String, public :: String -> null | String }
    Inputs: the id
  */
  secret = id: if isId id && pathExists "${folder id}/meta.json" then entry id else null;

  /**
    The names of a scope's secrets that have a folder.

    Type:   String -> [String]
    Example: secretsOf "host/web"
  */
  secretsOf =
    scope:
    let
      at = folder scope;
    in
    if pathExists at then filter isName (lib.attrNames (readDir at)) else [ ];

  /**
    The public keys that are pinned for a host, each as "type base64".

    Type:   String -> [String]
  */
  pins =
    host:
    let
      file = "${toString dir}/hosts/${host}.json";
    in
    if pathExists file then map (pin: pin.key) (json file).recipients else [ ];
}
