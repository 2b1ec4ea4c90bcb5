# Small functions about functions, values and messages; fixed points; package metadata.
{ lib }:
let
  inherit (builtins) deepSeq foldl' fromJSON fromTOML functionArgs isAttrs readFile trace;
  inherit (lib) concatStringsSep isFunction mapAttrs mapAttrsToList;
in
rec {
  # Modules may ask for `lib.version`; the suffix says whose it is.
  release = "26.05";
  version = "26.05.stand-in";
  versionSuffix = ".stand-in";
  codeName = "stand-in";
  oldestSupportedReleaseIsAtLeast = wanted: wanted <= 2511;
  isInOldestRelease = oldestSupportedReleaseIsAtLeast;
  inPureEvalMode = !(builtins ? currentSystem);

  id = x: x;
  const = x: _: x;
  flip = f: a: b: f b a;
  pipe = foldl' (x: f: f x);
  concat = a: b: a ++ b;
  or = a: b: a || b;
  and = a: b: a && b;
  xor = a: b: a != b;
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  mod = a: b: a - b * (a / b);
  compare = a: b: if a < b then -1 else if a > b then 1 else 0;
  boolToString = b: if b then "true" else "false";
  boolToYesNo = b: if b then "yes" else "no";
  mergeAttrs = a: b: a // b;
  mapNullable = f: x: if x == null then null else f x;
  defaultTo = d: x: if x == null then d else x;

  isFunction = f: builtins.isFunction f || (isAttrs f && f ? __functor && isFunction (f.__functor f));
  functionArgs = f: if f ? __functor then f.__functionArgs or (functionArgs (f.__functor f)) else builtins.functionArgs f;
  setFunctionArgs = f: args: { __functor = _: f; __functionArgs = args; };
  toFunction = v: if isFunction v then v else _: v;
  importJSON = file: fromJSON (readFile file);
  importTOML = file: fromTOML (readFile file);

  warn = message: trace "evaluation warning: ${message}";
  warnIf = condition: message: if condition then warn message else id;
  warnIfNot = condition: warnIf (!condition);
  info = message: trace "INFO: ${message}";
  throwIf = condition: message: if condition then throw message else id;
  throwIfNot = condition: throwIf (!condition);
  showWarnings = warnings: value: foldl' (acc: w: warn w acc) value warnings;
  assertMsg = condition: message: condition || throw message;
  assertOneOf = name: value: values:
    assertMsg (builtins.elem value values)
      "${name} must be one of ${generators.toPretty { } values}, but is: ${generators.toPretty { } value}";
  traceVal = x: trace x x;
  traceValSeq = x: trace (deepSeq x x) x;
  traceSeq = x: y: trace (deepSeq x x) y;

  fixedPoints = rec {
    fix = f: let x = f x; in x;
    fix' = f: let x = f x // { __unfix__ = f; }; in x;
    extends = overlay: f: final: let prev = f final; in prev // overlay final prev;
    composeExtensions = a: b: final: prev: let first = a final prev; in first // b final (prev // first);
    composeManyExtensions = lib.foldr composeExtensions (_: _: { });
    makeExtensible = makeExtensibleWithCustomName "extend";
    makeExtensibleWithCustomName = name: f:
      fix' f // { ${name} = overlay: makeExtensibleWithCustomName name (extends overlay f); };
  };
  inherit (fixedPoints) fix fix' extends composeExtensions composeManyExtensions makeExtensible makeExtensibleWithCustomName;

  customisation = rec {
    callPackageWith = scope: f: args:
      let
        fn = if isFunction f then f else import f;
        wanted = lib.functionArgs fn;
      in
      makeOverridable fn (builtins.intersectAttrs wanted scope // args);
    callPackagesWith = scope: f: args: removeAttrs (callPackageWith scope f args) [ "override" "overrideDerivation" ];
    makeOverridable = f: args:
      let result = f args; in
      if isAttrs result
      then result // { override = new: makeOverridable f (args // (if isFunction new then new args else new)); }
      else result;
  };
  inherit (customisation) callPackageWith callPackagesWith makeOverridable;

  meta = rec {
    getExe = drv: getExe' drv (drv.meta.mainProgram or (lib.getName drv));
    getExe' = drv: name: "${lib.getBin drv}/bin/${name}";
    setName = name: drv: drv // { inherit name; };
  };
  inherit (meta) getExe getExe';
  licenses = mapAttrs (_: spdxId: { inherit spdxId; free = true; }) {
    mit = "MIT"; asl20 = "Apache-2.0"; bsd3 = "BSD-3-Clause"; gpl3Only = "GPL-3.0-only"; gpl3Plus = "GPL-3.0-or-later";
    mpl20 = "MPL-2.0"; isc = "ISC"; agpl3Only = "AGPL-3.0-only";
  };
  maintainers = { };
  platforms = rec {
    linux = [ "x86_64-linux" "aarch64-linux" "armv7l-linux" "armv6l-linux" "riscv64-linux" ];
    darwin = [ "x86_64-darwin" "aarch64-darwin" ];
    unix = linux ++ darwin;
    all = unix;
  };

  debug = {
    inherit traceVal traceValSeq traceSeq;
    # The tests that fail, as nixpkgs reports them: an empty list is a pass.
    runTests = tests:
      lib.concatLists (mapAttrsToList
        (name: test:
          lib.optional (lib.hasPrefix "test" name && test.expr != test.expected) {
            inherit name; inherit (test) expected; result = test.expr;
          })
        tests);
  };
  inherit (debug) runTests;

  generators = rec {
    toJSON = { }: builtins.toJSON;
    toYAML = toJSON;
    mkValueStringDefault = { }: v:
      if v == true then "true" else if v == false then "false" else if v == null then "null" else toString v;
    mkKeyValueDefault = { mkValueString ? mkValueStringDefault { } }: sep: k: v: "${lib.escape [ sep ] k}${sep}${mkValueString v}";
    toKeyValue = { mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false, indent ? "" }: attrs:
      lib.concatStrings (lib.concatLists (mapAttrsToList
        (k: v: map (x: indent + mkKeyValue k x + "\n") (if listsAsDuplicateKeys then lib.toList v else [ v ]))
        attrs));
    toINI = { mkSectionName ? lib.escape [ "[" "]" ], mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false }: sections:
      concatStringsSep "\n" (mapAttrsToList
        (name: attrs: "[${mkSectionName name}]\n" + toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; } attrs)
        sections);
    # A value on one line, for messages. Depth is bounded, so that no message evaluates a package set.
    toPretty = { depth ? 4, ... }: v:
      let sub = toPretty { depth = depth - 1; }; in
      if builtins.isString v then lib.strings.escapeNixString v
      else if v == null || builtins.isBool v || builtins.isInt v || builtins.isFloat v then mkValueStringDefault { } v
      else if builtins.isPath v then toString v
      else if isFunction v then "<function>"
      else if depth == 0 then "…"
      else if builtins.isList v then (if v == [ ] then "[ ]" else "[ ${concatStringsSep " " (map sub v)} ]")
      else if lib.isDerivation v then "<derivation ${v.name or "???"}>"
      else if v == { } then "{ }"
      else "{ ${concatStringsSep " " (mapAttrsToList (n: x: "${lib.strings.escapeNixIdentifier n} = ${sub x};") v)} }";
  };
}
