# The stand-in's `lib`: one fixed point, flat like nixpkgs' own, with its sections as attributes.
let
  sections = builtins.listToAttrs (map
    (name: { inherit name; value = import (./. + "/${name}.nix") { inherit lib; }; })
    [ "trivial" "lists" "attrsets" "strings" "options" "modules" "types" "sources" "systems" ])
  // { inherit (sections.strings) versions; };
  # What nixpkgs has only in a section must not be found in the flat names either.
  hidden = [
    "release" "escapeNixIdentifier" "escapeNixString" "findFirstIndex" "isConvertibleWithToString"
    "sanitizeDerivationName" "showDefs"
  ];
  pick = names: set: builtins.listToAttrs (map (name: { inherit name; value = set.${name}; }) names);
  lib = removeAttrs flat hidden // sections;
  flat = pick [
    "add" "addErrorContext" "all" "any" "attrNames" "attrValues" "bitAnd" "bitOr" "bitXor" "ceil" "compareVersions"
    "concatLists" "deepSeq" "div" "elem" "elemAt" "filter" "floor" "foldl'" "fromJSON" "fromTOML" "genList"
    "genericClosure" "getAttr" "hasAttr" "head" "intersectAttrs" "isAttrs" "isBool" "isFloat" "isInt" "isList" "isPath"
    "isString" "length" "lessThan" "listToAttrs" "mapAttrs" "match" "mul" "parseDrvName" "pathExists" "readDir" "readFile"
    "removeAttrs" "replaceStrings" "seq" "split" "splitVersion" "stringLength" "sub" "substring" "tail" "toJSON"
    "toString" "trace" "tryEval" "typeOf" "unsafeGetAttrPos" "map" "baseNameOf" "dirOf" "hasContext" "getContext"
    "hashString" "hashFile" "placeholder" "toFile" "unsafeDiscardStringContext"
  ] builtins
  // sections.strings // sections.lists // sections.attrsets // sections.trivial // sections.options
  // removeAttrs sections.modules [ "importJSON" "importTOML" "importApply" "mkAliasAndWrapDefsWithPriority" "defaultOrderPriority" "defaultOverridePriority" ]
  // pick [ "mkOptionType" "isType" "setType" "isOptionType" "defaultFunctor" "defaultTypeMerge" ] sections.types
  // pick [ "cleanSource" "cleanSourceWith" "cleanSourceFilter" ] sections.sources;
in
lib
