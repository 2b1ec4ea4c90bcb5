# Small functions about functions, values and messages; fixed points; package metadata.
{ lib }:
let
  inherit (builtins) foldl' fromJSON fromTOML functionArgs isAttrs readFile trace;
  inherit (lib) concatStringsSep isFunction mapAttrsToList;
in
rec {
  # Modules may ask for `lib.version`; the suffix says whose it is.
  release = "26.05";
  version = "26.05.stand-in";

  id = x: x;
  const = x: _: x;
  flip = f: a: b: f b a;
  pipe = foldl' (x: f: f x);
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  mod = a: b: a - b * (a / b);
  boolToString = b: if b then "true" else "false";
  mergeAttrs = a: b: a // b;
  mapNullable = f: x: if x == null then null else f x;

  isFunction = f: builtins.isFunction f || (isAttrs f && f ? __functor && isFunction (f.__functor f));
  functionArgs = f: if f ? __functor then f.__functionArgs or (functionArgs (f.__functor f)) else builtins.functionArgs f;
  setFunctionArgs = f: args: { __functor = _: f; __functionArgs = args; };
  toFunction = v: if isFunction v then v else _: v;
  importJSON = file: fromJSON (readFile file);
  importTOML = file: fromTOML (readFile file);

  warn = message: trace "evaluation warning: ${message}";
  warnIf = condition: message: if condition then warn message else id;
  warnIfNot = condition: warnIf (!condition);
  throwIf = condition: message: if condition then throw message else id;
  throwIfNot = condition: throwIf (!condition);
  showWarnings = warnings: value: foldl' (acc: w: warn w acc) value warnings;
  assertMsg = condition: message: condition || throw message;

  fix = f: let x = f x; in x;
  extends = overlay: f: final: let prev = f final; in prev // overlay final prev;
  composeExtensions = a: b: final: prev: let first = a final prev; in first // b final (prev // first);
  composeManyExtensions = lib.foldr composeExtensions (_: _: { });
  makeExtensible = makeExtensibleWithCustomName "extend";
  makeExtensibleWithCustomName = name: f:
    fix f // { ${name} = overlay: makeExtensibleWithCustomName name (extends overlay f); };
  fixedPoints = { inherit fix extends composeExtensions composeManyExtensions makeExtensible makeExtensibleWithCustomName; };

  callPackageWith = scope: f: args:
    let fn = if isFunction f then f else import f; in
    makeOverridable fn (builtins.intersectAttrs (lib.functionArgs fn) scope // args);
  makeOverridable = f: args:
    let result = f args; in
    if isAttrs result
    then result // { override = new: makeOverridable f (args // (if isFunction new then new args else new)); }
    else result;
  customisation = { inherit callPackageWith makeOverridable; };

  getExe = drv: getExe' drv (drv.meta.mainProgram or (lib.getName drv));
  getExe' = drv: name: "${lib.getBin drv}/bin/${name}";
  meta = { inherit getExe getExe'; };

  # The tests that fail, as nixpkgs reports them: an empty list is a pass.
  runTests = tests: lib.concatLists (mapAttrsToList
    (name: test: lib.optional (lib.hasPrefix "test" name && test.expr != test.expected) { inherit name; inherit (test) expected; result = test.expr; })
    tests);
  debug = { inherit runTests; };

  generators = rec {
    toJSON = { }: builtins.toJSON;
    toYAML = toJSON;
    mkValueStringDefault = { }: v:
      if v == true then "true" else if v == false then "false" else if v == null then "null" else toString v;
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
