# Functions over strings.
{ lib }:
let
  inherit (builtins) elem elemAt filter genList isAttrs isList isPath isString length match replaceStrings split stringLength substring;
  inherit (lib) imap1 mapAttrsToList;
in
rec {
  inherit (builtins) concatStringsSep fromJSON toJSON readFile;
  concatStrings = builtins.concatStringsSep "";
  concatMapStrings = f: xs: concatStrings (map f xs);
  concatMapStringsSep = sep: f: xs: builtins.concatStringsSep sep (map f xs);
  concatMapAttrsStringSep = sep: f: set: builtins.concatStringsSep sep (mapAttrsToList f set);
  concatLines = concatMapStrings (s: s + "\n");
  optionalString = condition: s: if condition then s else "";
  makeSearchPath = sub: pkgs: builtins.concatStringsSep ":" (map (p: "${p}/${sub}") (filter (x: x != null) pkgs));
  makeSearchPathOutput = output: sub: pkgs: makeSearchPath sub (map (lib.getOutput output) pkgs);
  makeBinPath = makeSearchPathOutput "bin" "bin";

  hasPrefix = p: s: substring 0 (stringLength p) s == p;
  hasSuffix = x: s: let n = stringLength s; k = stringLength x; in n >= k && substring (n - k) n s == x;
  hasInfix = x: s: length (split (escapeRegex x) (builtins.unsafeDiscardStringContext s)) > 1;
  removePrefix = p: s: if hasPrefix p s then substring (stringLength p) (-1) s else s;
  removeSuffix = x: s: if hasSuffix x s then substring 0 (stringLength s - stringLength x) s else s;
  stringToCharacters = s: genList (i: substring i 1 s) (stringLength s);
  splitString = sep: s: map (lib.addContextFrom s) (filter isString (split (escapeRegex sep) (builtins.unsafeDiscardStringContext (toString s))));
  addContextFrom = a: b: substring 0 0 a + b;
  escape = chars: replaceStrings chars (map (c: "\\${c}") chars);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  escapeShellArg = v:
    let s = toString v; in
    if match "[[:alnum:],._+:@%/-]+" s == null then "'${replaceStrings [ "'" ] [ "'\\''" ] s}'" else s;
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  escapeNixString = s: escape [ "$" ] (builtins.toJSON s);
  escapeNixIdentifier = s:
    if match "[a-zA-Z_][a-zA-Z0-9_'-]*" s != null && !(elem s [ "assert" "else" "if" "in" "inherit" "let" "or" "rec" "then" "with" ])
    then s else escapeNixString s;
  toShellVar = name: v: "${name}=${escapeShellArg v}";
  lowerChars = stringToCharacters "abcdefghijklmnopqrstuvwxyz";
  upperChars = stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  toLower = replaceStrings upperChars lowerChars;
  toUpper = replaceStrings lowerChars upperChars;
  trim = s: let m = match "[[:space:]]*(.*[^[:space:]])[[:space:]]*" s; in if m == null then "" else elemAt m 0;
  fileContents = file: removeSuffix "\n" (builtins.readFile file);
  versionOlder = a: b: builtins.compareVersions b a == 1;
  versionAtLeast = a: b: !(versionOlder a b);
  versions = lib.mapAttrs (_: i: v: elemAt (builtins.splitVersion v) i) { major = 0; minor = 1; patch = 2; } // {
    inherit (builtins) splitVersion;
    majorMinor = v: builtins.concatStringsSep "." (lib.take 2 (builtins.splitVersion v));
  };
  getName = x: if isString x then (builtins.parseDrvName x).name else x.pname or (builtins.parseDrvName x.name).name;
  getVersion = x: if isString x then (builtins.parseDrvName x).version else x.version or (builtins.parseDrvName x.name).version;
  toIntBase10 = s:
    let m = match "[[:space:]]*(-?)0*([0-9]+)[[:space:]]*" s; in
    if m == null then throw "toIntBase10: Could not convert ${builtins.toJSON s} to int."
    else builtins.fromJSON "${elemAt m 0}${elemAt m 1}";
  toInt = s:
    if match "[[:space:]]*0[0-9]+[[:space:]]*" s != null
    then throw "toInt: Ambiguity in interpretation of ${builtins.toJSON s} between octal and zero padded integer."
    else if match "[[:space:]]*-?[0-9]+[[:space:]]*" s == null
    then throw "toInt: Could not convert ${builtins.toJSON s} to int." else toIntBase10 s;
  isStringLike = x: isString x || isPath x || x ? outPath || x ? __toString;
  isConvertibleWithToString = x:
    isStringLike x || x == null || builtins.isBool x || builtins.isInt x || builtins.isFloat x
    || (isList x && builtins.all isConvertibleWithToString x);
  isStorePath = x:
    isStringLike x && (let s = toString x; in substring 0 1 s == "/" && dirOf s == builtins.storeDir);
  sanitizeDerivationName = s:
    let
      clean = concatMapStrings (p: if isList p then "-" else p) (split "[^[:alnum:]+._?=-]+" (builtins.unsafeDiscardStringContext (toString s)));
      bare = elemAt (match "\\.*(.*)" clean) 0;
    in
    if bare == "" then "unknown" else substring (lib.max 0 (stringLength bare - 207)) (-1) bare;
}
