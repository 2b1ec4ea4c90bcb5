# Option declarations, the messages about them, and how plain definitions are merged.
{ lib }:
let
  inherit (builtins) all concatMap filter foldl' head isAttrs isFunction isList length tail;
  inherit (lib) concatMapStrings concatMapStringsSep concatStringsSep getFiles;
in
rec {
  isOption = lib.isType "option";
  mkOption = attrs: attrs // { _type = "option"; };
  mkEnableOption = name: mkOption {
    type = lib.types.bool; default = false; example = true;
    description = "Whether to enable ${name}.";
  };
  literalExpression = text: { _type = "literalExpression"; inherit text; };
  unknownModule = "<unknown-file>";

  getValues = map (d: d.value);
  getFiles = map (d: d.file);
  showFiles = files: concatStringsSep " and " (map (f: "`${f}'") files);
  # Placeholders such as <name> and * stay bare, everything else that is no identifier is quoted.
  showOption = concatMapStringsSep "." (p: if p == "*" || builtins.match "<.*>|‹.*›" p != null then p else lib.strings.escapeNixIdentifier p);
  showDefs = concatMapStrings (d:
    let shown = builtins.tryEval (lib.generators.toPretty { } d.value); in
    "\n- In `${toString d.file}'" + (if shown.success then ": ${shown.value}" else ""));

  mergeUniqueOption = { message ? "", merge ? mergeOneOption }: loc: defs:
    if length defs == 1 then merge loc defs
    else throw "The option `${showOption loc}' is defined multiple times while it's expected to be unique.\n${message}\nDefinition values:${showDefs defs}\nUse `lib.mkForce value` or `lib.mkDefault value` to change the priority on any of these definitions.";
  mergeOneOption = loc: defs: if length defs == 1 then (head defs).value else mergeUniqueOption { } loc defs;
  mergeEqualOption = loc: defs:
    let first = (head defs).value; in
    if length defs == 1 then first
    else if all (d: d.value == first) (tail defs) then first
    else throw "The option `${showOption loc}' has conflicting definition values:${showDefs defs}\nUse `lib.mkForce value` or `lib.mkDefault value` to change the priority on any of these definitions.";
  mergeDefaultOption = loc: defs:
    let values = getValues defs; in
    if length values == 1 then head values
    else if all isList values then lib.concatLists values
    else if all isAttrs values then foldl' lib.mergeAttrs { } values
    else if all builtins.isBool values then lib.any lib.id values
    else if all builtins.isString values then lib.concatStrings values
    else throw "Cannot merge definitions of `${showOption loc}'. Definition values:${showDefs defs}";

}
