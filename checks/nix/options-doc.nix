/**
  The reference of the options of a fleet, as Markdown, from the options themselves.

  Type:   { lib } -> Options -> String
  Inputs: nixpkgs' lib; what fleetConfigurations.<name>.options holds
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
      optional (!(value.internal or false)) { inherit path value; } ++ below path value
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
      enum = "one of ${lib.concatMapStringsSep ", " (v: "`${builtins.toJSON v}`") (enumValues type)}";
      bool = "true or false";
      str = "string";
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
in
options:
"# Options of a fleet\n\n"
+ "What can be said below `fleetConfigurations.<name>`. This page is generated: `checks/nix/run --update` writes it.\n\n"
+ removeSuffix "\n" (lib.concatMapStrings render (walkAll [ ] options))
