# What modules get of a secret's parts: where they will be on the host, and the values of public ones.
{ lib }:
let
  inherit (builtins) hashString substring;
  inherit (lib) genAttrs unique;

  folder =
    neededForUsers: if neededForUsers then "/run/secrets-for-users" else "/run/secrets";
in
{
  /**
    What a template holds in place of a part. secretsgen/install has the same rule.

    Type:   String -> String -> String
    Inputs: the secret's id; the part
  */
  placeholder = id: part: "<FLEET-SECRET:${substring 0 32 (hashString "sha256" "${id}/${part}")}>";

  /**
    The parts of a secret by name, and `secretPath`. Every secret has `secret` and `public`, so that modules can be written before there is
    a value. Nothing here fails while there is none, but `data`.

    Type:   { id, name, entry, parts, command, neededForUsers ? false, more ? [ ] } -> { <part> = { path, stablePath, data, placeholder }, secretPath }
    Inputs:
      id       the secret's id
      name     its name on the host
      entry    what the state has of it, or null
      parts    the declared parts, or null
      command  how the program is called
      more     names of parts that it might have
  */
  parts =
    {
      id,
      name,
      entry,
      parts,
      command,
      neededForUsers ? false,
      more ? [ ],
      placeholder,
    }:
    let
      existing = if entry == null then { } else entry.meta.parts;
      # Their names have to be known even where the file of this one secret is damaged: others are looked at together with it.
      known =
        let
          tried = builtins.tryEval (lib.attrNames existing);
        in
        if tried.success then tried.value else [ ];
      declared = if parts == null then { } else parts;
      at = "${folder neededForUsers}/${name}";

      missing =
        part:
        throw ''
          The public part "${part}" of the secret ${id} is needed, and the state does not have it.
          Make it: ${command} sync
          fleet-missing-public: ${id} ${part}
        '';

      sealed =
        part:
        throw ''
          The part "${part}" of the secret ${id} is encrypted, so its value is not known here.
          Use the file that has it: config.secrets.${name}.${part}.path; or a template: secretTemplates.
        '';

      text =
        part: encoding:
        let
          value = entry.public part;
        in
        if value == null then
          missing part
        else if encoding == "base64" then
          throw ''
            The public part "${part}" of the secret ${id} is no text, so Nix cannot have it as a string.
            Use the file that has it: config.secrets.${name}.${part}.path
          ''
        else
          value;

      data =
        part:
        if existing ? ${part} then
          if existing.${part}.encrypted then sealed part else text part (existing.${part}.encoding or "text")
        else if declared.${part}.encrypted or false then
          sealed part
        else if part == "secret" && parts == null then
          sealed part
        else
          missing part;

      one = part: {
        path = "${at}/${if existing ? ${part} then entry.commit part else "missing"}-${part}";
        stablePath = "${at}/${part}";
        placeholder = placeholder id part;
        data = data part;
      };

      all = genAttrs (
        unique (
          [
            "secret"
            "public"
          ]
          ++ known
          ++ lib.attrNames declared
          ++ lib.filter (part: part != "secretPath") more
        )
      ) one;
    in
    all // { secretPath = all.secret.path; };
}
