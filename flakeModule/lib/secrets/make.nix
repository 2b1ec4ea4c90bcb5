# How a generator is put together. It is a plain set and no derivation, so that what a plan needs to know of it builds nothing and looks
# at no package.
{ lib }:
let
  inherit (lib)
    concatMap
    isString
    mapAttrs
    optionalString
    ;

  sealed = {
    encrypted = true;
    type = "";
    pattern = "";
  };

  public = type: {
    encrypted = false;
    inherit type;
    pattern = "";
  };

  # What a script finds in its PATH, as systemd's services do: where scripts were written against a whole system, most of it.
  tools =
    pkgs:
    concatMap (name: lib.optional (pkgs ? ${name}) pkgs.${name}) [
      "coreutils"
      "findutils"
      "gnugrep"
      "gnused"
    ];

  # The folder $out is there already; scripts that make it themselves must not fail.
  ownMkdir = ''
    mkdir() {
      if [ "$#" != 1 ] || [ "$1" != "$out" ]; then command mkdir "$@"; fi
    }
  '';

  program =
    pkgs:
    {
      script,
      path,
      setup ? "",
    }:
    pkgs.writeShellScriptBin "generate" (
      "set -eu\n"
      + optionalString (path != [ ]) "export PATH=${lib.makeBinPath path}\${PATH:+:$PATH}\n"
      + setup
      + script
    );

  normalDependencies =
    dependencies:
    if lib.isList dependencies then
      lib.listToAttrs (map (name: lib.nameValuePair name name) dependencies)
    else
      dependencies;
in
rec {
  inherit sealed public;

  /**
    A declared part, with everything that a plan says of it. A part is encrypted unless something else is said.

    Type:   { encrypted ? true, type ? null, pattern ? null } -> Part
  */
  part =
    {
      encrypted ? true,
      type ? null,
      pattern ? null,
    }:
    let
      hasPattern = pattern != null && pattern != "";
    in
    if encrypted && (type != null || hasPattern) then
      throw ''
        A part of a secret has a type or a pattern, which are for public parts, but it is encrypted.
        Set encrypted = false; for a part that everybody may read, or remove the type.
      ''
    else if encrypted then
      sealed
    else
      {
        inherit encrypted;
        type =
          if type != null then
            type
          else if hasPattern then
            "regex"
          else
            "text";
        pattern = if hasPattern then pattern else "";
      };

  /**
    Whether a value is a generator.

    Type:   Value -> Bool
  */
  isGenerator = value: value._type or null == "fleetGenerator";

  /**
    One of fleet's own generators. What it was called with is its data, and its script is fleet's business: another version of fleet makes
    no value anew. So an argument that is added later must be left out of the data where it has its default.

    Type:   Packages -> { name, arguments, parts, script, path ? [ ], dependencies ? { } } -> Generator
  */
  builtin =
    pkgs:
    {
      name,
      arguments,
      parts,
      script,
      path ? [ ],
      dependencies ? { },
    }:
    {
      _type = "fleetGenerator";
      kind = "script";
      on = null;
      sandbox = "strict";
      data = arguments // {
        generator = name;
      };
      given = null;
      seedText = null;
      dependencies = normalDependencies dependencies;
      ask = null;
      inherit parts;
      package = program pkgs { inherit script path; };
    };

  /**
    A generator that asks a person. How it asks is no part of the value, so it has no data.

    Type:   { from, prompt, part, variable ? "" } -> Generator
  */
  ask =
    {
      from,
      prompt,
      part,
      variable ? "",
    }:
    {
      _type = "fleetGenerator";
      kind = "ask";
      on = null;
      sandbox = "strict";
      data = null;
      given = null;
      seedText = null;
      dependencies = { };
      ask = { inherit from prompt variable; };
      parts.${part} = sealed;
    };

  /**
    A generator that somebody wrote.

    Type:   Packages -> { script, impureOn ? null, … } -> Generator
  */
  written =
    pkgs:
    {
      # A text, or a file with it.
      script,
      impureOn ? null,
      parts ? null,
      generationData ? null,
      dependencies ? { },
      sandbox ? if impureOn == null then "strict" else "none",
      runtimeInputs ? [ ],
      # What an older version of fleet had; all owners of a secret have one value.
      allowDifferent ? true,
    }:
    let
      text = if builtins.isPath script then builtins.readFile script else script;
    in
    {
      _type = "fleetGenerator";
      kind = "script";
      on = impureOn;
      inherit sandbox;
      data = null;
      given = generationData;
      seedText = text;
      dependencies = normalDependencies dependencies;
      ask = null;
      parts = if parts == null then null else mapAttrs (_: part) parts;
      package = program pkgs {
        script = text;
        path = runtimeInputs ++ tools pkgs;
        setup = ownMkdir;
      };
    };

  /**
    The two ways of calling: a script (and where it runs), or one attribute set.

    Type:   Packages -> (String | Attrs) -> …
  */
  mkImpureSecretGenerator =
    pkgs: first:
    if isString first || builtins.isPath first then
      impureOn: written pkgs { script = first; inherit impureOn; }
    else
      written pkgs first;

  mkSecretGenerator =
    pkgs: first: written pkgs (
      if isString first || builtins.isPath first then { script = first; } else first
    );
}
