/**
  The reference of the options of a fleet and of fleetLib, as Markdown, from the options and from the comments of the functions.

  Type:   { lib } -> Options -> Options -> String
  Inputs: nixpkgs' lib; what fleetConfigurations.<name>.options holds; the options that a host has from fleet
*/
{ lib }:
let
  inherit (lib)
    concatLists
    concatMapStringsSep
    hasPrefix
    isAttrs
    mapAttrsToList
    optional
    optionalString
    removeSuffix
    ;

  isOption = value: value._type or null == "option";

  # Another name is told of where the option is.
  isAlias = option: hasPrefix "Alias of " (option.description or "");

  # Options below an option: what a submodule declares. `<name>` stands for the key of an attribute set.
  below =
    path: option:
    let
      keyed = option.type.name == "attrsOf" || option.type.name == "lazyAttrsOf";
      # The modules of hosts and of NixOS are another world.
      sub = if option.type.name == "deferredModule" then { } else option.type.getSubOptions [ ];
    in
    walkAll (if keyed then path ++ [ "<name>" ] else path) sub;

  walk =
    path: value:
    if isOption value then
      if isAlias value then [ ] else optional (!(value.internal or false)) { inherit path value; } ++ below path value
    else if isAttrs value then
      walkAll path value
    else
      [ ];

  walkAll =
    path: values:
    concatLists (
      mapAttrsToList (name: walk (path ++ [ name ])) (
        lib.filterAttrs (name: _: !hasPrefix "_" name) values
      )
    );

  # Nix as a person would write it.
  nix =
    indent: value:
    if value._type or null == "literalExpression" then
      removeSuffix "\n" value.text
    else if lib.isList value then
      if value == [ ] then "[ ]" else "[ ${concatMapStringsSep " " (nix indent) value} ]"
    else if isAttrs value then
      if value == { } then
        "{ }"
      else
        "{ ${lib.concatStringsSep " " (mapAttrsToList (name: v: "${name} = ${nix indent v};") value)} }"
    else
      builtins.toJSON value;

  # What a person can set; the library's words for it differ from release to release.
  kind =
    type:
    {
      attrsOf = "attribute set";
      deferredModule = "module";
      submodule = "attribute set";
      enum = "one of ${lib.concatMapStringsSep ", " (v: "`${builtins.toJSON v}`") (enumValues type)}";
      bool = "true or false";
      str = "string";
      separatedString = "text";
      raw = if type.description == "raw value" then "anything" else type.description;
      listOf = "list of: ${kind (type.nestedTypes.elemType or type)}";
      nullOr = "null or: ${kind (type.nestedTypes.elemType or type)}";
    }
    .${type.name} or type.description;

  enumValues = type: type.functor.payload.values or type.functor.payload;

  field =
    title: option: literal: fallback:
    if option ? ${literal} then
      "${title}:\n\n```nix\n${nix "" option.${literal}}\n```\n\n"
    else if option ? ${fallback} then
      "${title}:\n\n```nix\n${nix "" option.${fallback}}\n```\n\n"
    else
      "";

  render =
    { path, value }:
    "## ${lib.concatStringsSep "." path}\n\n"
    + "${removeSuffix "\n" value.description}\n\n"
    + "Type: ${kind value.type}${optionalString (value.readOnly or false) " (read only)"}\n\n"
    + field "Default" value "defaultText" "default"
    + field "Example" value "example" "example";
  # The comment before a function, and the name after it.
  function =
    text:
    let
      parts = lib.splitString "  */\n" text;
      comment = lib.replaceStrings [ "\n    " ] [ "\n" ] "\n${removeSuffix "\n" (lib.head parts)}";
      paragraphs = lib.splitString "\n\n" comment;
      name = lib.last (builtins.match " *(inherit )?([A-Za-z0-9]+).*" (lib.elemAt parts 1));
    in
    "## fleetLib.${name}\n${lib.head paragraphs}\n\n```\n${lib.concatStringsSep "\n\n" (lib.tail paragraphs)}\n```\n\n";

  functionsOf = file: lib.tail (lib.splitString "  /**\n" (builtins.readFile file));

  generatorsIntro = ''
    What makes secrets: arguments of the function in `generator` (`{ mkPassword }: mkPassword { size = 40; }`), and the same as functions of fleetLib
    (`fleetLib.mkPassword { size = 40; }`). Other arguments mean a new value.
  '';

  hostIntro = ''
    What fleet adds to the NixOS options of every host: they are set in `nixos`, of the fleet or of one host.
  '';

  intro = ''
    What can be said below `fleetConfigurations.<name>`. This page is generated: `checks/nix/run --update` writes it.

    Modules of a fleet are what is in its `imports`. Beside `config`, `options` and `lib` they get `fleetLib` (below), `inputs`, `self`, and as
    functions from a system `inputs'` and `self'`: `(inputs' "x86_64-linux").nixpkgs`. Modules of hosts are in `nixos`, which says what they get.
  '';
in
options: ofHosts:
"# Options of a fleet\n\n${intro}\n"
+ lib.concatMapStrings render (walkAll [ ] options)
+ "# Options of a host\n\n${hostIntro}\n"
+ lib.concatMapStrings render (walkAll [ ] ofHosts)
+ "# fleetLib\n\nFunctions for modules of fleets and of hosts.\n\n"
+ lib.concatMapStrings function (functionsOf ../../flakeModule/lib/public.nix)
+ "# Generators\n\n${generatorsIntro}\n"
+ removeSuffix "\n" (
  lib.concatMapStrings function (
    lib.concatMap (file: functionsOf (../../flakeModule/lib/secrets/builtins + "/${file}.nix")) [
      "random"
      "keys"
      "certificates"
      "people"
      "scripts"
    ]
  )
)
