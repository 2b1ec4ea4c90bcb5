# Option types: what a value may be, and how several definitions of it become one.
{ lib }:
let
  inherit (builtins) all attrNames concatMap elem filter head isAttrs isBool isFloat isInt isList isString mapAttrs typeOf;
  inherit (lib)
    concatMapStringsSep concatStringsSep getFiles getValues imap1 isDerivation isFunction isStringLike last mergeEqualOption mergeOneOption
    optionalAttrs setDefaultModuleLocation showFiles showOption;
  inherit (lib.modules) mergeDefinitions;

  # Two types of one name merge when their inner types (wrapped) or their parameters (payload) do.
  defaultTypeMerge = f: g:
    let
      inner = f.wrapped.typeMerge g.wrapped.functor;
      payload = f.binOp f.payload g.payload;
    in
    if f.name != g.name then null
    else if (f.wrapped or null) != null && (g.wrapped or null) != null then (if inner == null then null else f.type inner)
    else if f.payload or null != null && g.payload or null != null then (if payload == null then null else f.type payload)
    else if f.payload or null != null || (f.wrapped or null) != null then null
    else f.type;
  defaultFunctor = name: { inherit name; type = types.${name} or null; wrapped = null; payload = null; binOp = _: _: null; };
  functorOf = name: fields: defaultFunctor name // fields;

  mkOptionType = t@{ name, ... }:
    let functor = t.functor or (defaultFunctor name // { type = self; }); self = {
      _type = "option-type"; description = name; descriptionClass = null; deprecationMessage = null;
      check = _: true; merge = lib.mergeDefaultOption; emptyValue = { };
      getSubOptions = _: { }; getSubModules = null; substSubModules = _: null; nestedTypes = { };
      typeMerge = defaultTypeMerge functor;
      inherit functor;
    } // t; in self;

  simple = name: description: check: mkOptionType { inherit name description check; descriptionClass = "noun"; merge = mergeEqualOption; };
  # In "list of (null or string)" the inner description needs parentheses: in which phrases depends on the outer one.
  phrase = bare: t: if elem t.descriptionClass bare then t.description else "(${t.description})";
  word = phrase [ "noun" ];
  part = phrase [ "noun" "composite" ];
  side = phrase [ "noun" "conjunction" ];

  # What every type with one inner type shares.
  container = name: elem: fields: mkOptionType ({
    inherit name;
    descriptionClass = "composite";
    inherit (elem) getSubModules;
    substSubModules = m: types.${name} (elem.substSubModules m);
    functor = functorOf name { wrapped = elem; };
    nestedTypes.elemType = elem;
  } // fields);

  intBetween = low: high: intWith "${toString low} and ${toString high} (both inclusive)" (x: x >= low && x <= high);
  intWith = text: ok: types.addCheck types.int ok // { name = "intBetween"; description = "integer between ${text}"; };
  sized = bits: high: intBetween 0 high // { name = "unsignedInt${toString bits}"; description = "${toString bits} bit unsigned integer; between 0 and ${toString high} (both inclusive)"; };

  mergeAttrs = lazy: elem: loc: defs:
    let
      byName = builtins.zipAttrsWith
        (name: ds: mergeDefinitions (loc ++ [ name ]) elem ds)
        (map (d: mapAttrs (_: value: { inherit (d) file; inherit value; }) d.value) defs);
    in
    if lazy then mapAttrs (_: m: m.optionalValue.value or elem.emptyValue.value or m.mergedValue) byName
    else mapAttrs (_: m: m.mergedValue) (removeAttrs byName (filter (n: !byName.${n}.isDefined) (attrNames byName)));

  types = rec {
    inherit mkOptionType defaultTypeMerge defaultFunctor;
    isOptionType = isType "option-type";
    isType = name: v: v._type or null == name;
    setType = name: v: v // { _type = name; };

    raw = mkOptionType { name = "raw"; description = "raw value"; descriptionClass = "noun"; merge = mergeOneOption; };
    unspecified = mkOptionType { name = "unspecified"; description = "unspecified value"; descriptionClass = "noun"; };
    bool = simple "bool" "boolean" isBool;
    int = simple "int" "signed integer" isInt;
    float = simple "float" "floating point number" isFloat;
    number = either int float;
    ints = {
      between = intBetween;
      unsigned = addCheck int (x: x >= 0) // { name = "unsignedInt"; description = "unsigned integer, meaning >=0"; };
      positive = addCheck int (x: x > 0) // { name = "positiveInt"; description = "positive integer, meaning >0"; };
      u8 = sized 8 255;
      u16 = sized 16 65535;
      u32 = sized 32 4294967295;
    };
    port = ints.u16;

    str = simple "str" "string" isString;
    nonEmptyStr = simple "nonEmptyStr" "non-empty string" (x: isString x && builtins.match "[ \t\n]*" x == null);
    singleLineStr = strMatching "[^\n\r]*\n?" // { name = "singleLineStr"; description = "(optionally newline-terminated) single-line string"; };
    strMatching = pattern: simple "strMatching ${lib.strings.escapeNixString pattern}" "string matching the pattern ${pattern}"
      (x: isString x && builtins.match pattern x != null);
    separatedString = sep: mkOptionType {
      name = "separatedString"; description = "strings concatenated with ${builtins.toJSON sep}"; descriptionClass = "noun"; check = isString;
      merge = _: defs: concatStringsSep sep (getValues defs);
      functor = functorOf "separatedString" { payload = sep; type = separatedString; binOp = a: b: if a == b then a else null; };
    };
    lines = separatedString "\n";
    attrs = mkOptionType { name = "attrs"; description = "attribute set"; check = isAttrs; merge = _: defs: lib.mergeAttrsList (getValues defs); emptyValue.value = { }; };
    path = simple "path" "absolute path" (x: isStringLike x && builtins.substring 0 1 (toString x) == "/");
    pathInStore = simple "pathInStore" "path in the Nix store" (x: isStringLike x && lib.hasPrefix "${builtins.storeDir}/" (toString x));
    package = mkOptionType {
      name = "package"; descriptionClass = "noun"; check = x: isDerivation x || lib.isStorePath x;
      merge = loc: defs: let v = mergeOneOption loc defs; in if isDerivation v then v else lib.toDerivation v;
    };
    pkgs = mkOptionType { name = "pkgs"; description = "Nixpkgs package set"; check = x: x._type or null == "pkgs"; merge = mergeOneOption; };
    optionType = mkOptionType {
      name = "optionType"; descriptionClass = "noun"; check = x: x._type or null == "option-type";
      merge = loc: defs: lib.foldl'
        (a: d:
          let t = a.typeMerge d.value.functor; in
          if t == null then throw "The option `${showOption loc}' has conflicting option types in ${showFiles (getFiles defs)}" else t)
        (head defs).value
        (lib.drop 1 defs);
    };
    # Whatever it is: attribute sets merge deeply, functions by their results, all else must be equal.
    anything = mkOptionType {
      name = "anything"; descriptionClass = "noun";
      merge = loc: defs:
        let
          kind = v: if isAttrs v && isStringLike v then "stringLike" else typeOf v;
          kinds = lib.unique (map (d: kind d.value) defs);
        in
        if kinds == [ "set" ] then (lazyAttrsOf anything).merge loc defs
        else if kinds == [ "list" ] && builtins.length defs == 1 then (listOf anything).merge loc defs
        else if kinds == [ "lambda" ] then arg: anything.merge (loc ++ [ "<function body>" ]) (map (d: d // { value = d.value arg; }) defs)
        else if kinds == [ "stringLike" ] then mergeOneOption loc defs
        else mergeEqualOption loc defs;
    };

    enum = values: mkOptionType {
      name = "enum"; descriptionClass = if builtins.length values < 2 then "noun" else "conjunction";
      description =
        let show = v: if isString v then builtins.toJSON v else lib.generators.toPretty { } v; in
        if values == [ ] then "impossible (empty enum)"
        else if builtins.length values == 1 then "value ${show (head values)} (singular enum)"
        else "one of ${concatMapStringsSep ", " show values}";
      check = v: elem v values;
      merge = mergeEqualOption;
      functor = functorOf "enum" { payload = values; type = enum; binOp = a: b: lib.unique (a ++ b); };
    };
    nullOr = t: container "nullOr" t {
      description = "null or ${side t}"; descriptionClass = "conjunction";
      check = v: v == null || t.check v;
      merge = loc: defs:
        let nulls = lib.count (d: d.value == null) defs; in
        if nulls == builtins.length defs then null
        else if nulls == 0 then t.merge loc defs
        else throw "The option `${showOption loc}` is defined both null and not null, in ${showFiles (getFiles defs)}.";
      emptyValue.value = null;
      inherit (t) getSubOptions;
    };
    listOf = t: container "listOf" t {
      description = "list of ${part t}"; check = isList; emptyValue.value = [ ];
      merge = loc: defs: map (m: m.mergedValue) (filter (m: m.isDefined) (lib.concatLists (imap1
        (n: d: imap1 (m: value: mergeDefinitions (loc ++ [ "[definition ${toString n}-entry ${toString m}]" ]) t [ { inherit (d) file; inherit value; } ]) d.value)
        defs)));
      getSubOptions = prefix: t.getSubOptions (prefix ++ [ "*" ]);
    };
    nonEmptyListOf = t: addCheck (listOf t) (l: l != [ ]) // { description = "non-empty ${word (listOf t)}"; emptyValue = { }; substSubModules = m: nonEmptyListOf (t.substSubModules m); };
    attrsWith = { elemType, lazy ? false, placeholder ? "name" }:
      container (if lazy then "lazyAttrsOf" else "attrsOf") elemType {
        description = "${if lazy then "lazy " else ""}attribute set of ${part elemType}";
        check = isAttrs; emptyValue.value = { };
        merge = mergeAttrs lazy elemType;
        getSubOptions = prefix: elemType.getSubOptions (prefix ++ [ "<${placeholder}>" ]);
      };
    attrsOf = elemType: attrsWith { inherit elemType; };
    lazyAttrsOf = elemType: attrsWith { inherit elemType; lazy = true; };
    functionTo = t: container "functionTo" t {
      description = "function that evaluates to a(n) ${part t}"; check = isFunction;
      merge = loc: defs:
        let each = arg: mergeDefinitions (loc ++ [ "<function body>" ]) t (map (d: d // { value = d.value arg; }) defs); in
        arg: (each arg).mergedValue;
      getSubOptions = prefix: t.getSubOptions (prefix ++ [ "<function body>" ]);
    };
    uniq = unique { message = ""; };
    unique = { message }: t: container "unique" t {
      inherit (t) description descriptionClass check emptyValue getSubOptions;
      substSubModules = m: unique { inherit message; } (t.substSubModules m);
      functor = functorOf "unique" { wrapped = t; type = unique { inherit message; }; };
      merge = lib.mergeUniqueOption { inherit message; merge = t.merge; };
    };
    either = a: b: mkOptionType {
      name = "either"; description = "${side a} or ${phrase [ "noun" "conjunction" "composite" ] b}"; descriptionClass = "conjunction";
      check = v: a.check v || b.check v;
      merge = loc: defs:
        let values = getValues defs; in
        if all a.check values then a.merge loc defs else if all b.check values then b.merge loc defs else mergeOneOption loc defs;
      nestedTypes = { left = a; right = b; };
      functor = functorOf "either" {
        payload = [ a b ]; type = p: either (head p) (last p);
        binOp = p: q:
          let l = (head p).typeMerge (head q).functor; r = (last p).typeMerge (last q).functor; in
          if l == null || r == null then null else [ l r ];
      };
    };
    oneOf = ts: if ts == [ ] then throw "types.oneOf needs to get at least one type in its argument" else lib.foldl' either (head ts) (lib.drop 1 ts);
    coercedTo = from: f: to: mkOptionType {
      name = "coercedTo"; description = "${word to} or ${word from} convertible to it";
      check = v: (from.check v && to.check (f v)) || to.check v;
      merge = loc: defs: to.merge loc (map (d: if to.check d.value && !from.check d.value then d else d // { value = if from.check d.value then f d.value else d.value; }) defs);
      inherit (to) emptyValue getSubOptions getSubModules;
      substSubModules = m: coercedTo from f (to.substSubModules m);
      typeMerge = _: null;
      nestedTypes = { coercedType = from; finalType = to; };
    };
    addCheck = t: ok: t // { check = v: t.check v && ok v; };

    submodule = modules: submoduleWith { modules = lib.toList modules; shorthandOnlyDefinesConfig = true; };
    submoduleWith = { modules, specialArgs ? { }, shorthandOnlyDefinesConfig ? false, description ? null, class ? null }@args:
      let
        wrap = map (d:
          if isAttrs d.value && shorthandOnlyDefinesConfig == true then { _file = d.file; config = d.value; }
          else setDefaultModuleLocation d.file d.value);
        eval = prefix: more: lib.evalModules { inherit class specialArgs prefix; modules = modules ++ more; };
        same = name: a: b: if a == null then b else if b == null || a == b then a
          else throw "A submoduleWith option is declared multiple times with conflicting ${name} values";
      in
      mkOptionType {
        name = "submodule";
        description = if description == null then "submodule" else description;
        descriptionClass = "noun";
        check = x: isAttrs x || isFunction x || path.check x;
        merge = loc: defs: (eval loc ([ { _module.args.name = last loc; } ] ++ wrap defs)).config;
        emptyValue.value = (eval [ ] [ ]).config;
        getSubOptions = prefix:
          let e = eval prefix [ { _module.args.name = lib.mkOptionDefault "‹name›"; } ]; in
          e.options // optionalAttrs (e._module.freeformType != null) { _freeformOptions = e._module.freeformType.getSubOptions prefix; };
        getSubModules = modules;
        substSubModules = m: submoduleWith (args // { modules = m; });
        functor = functorOf "submodule" {
          payload = { inherit modules class specialArgs shorthandOnlyDefinesConfig description; };
          type = submoduleWith;
          binOp = a: b: lib.genAttrs [ "class" "shorthandOnlyDefinesConfig" "description" ] (name: same name a.${name} b.${name}) // {
            modules = a.modules ++ b.modules;
            specialArgs = a.specialArgs // b.specialArgs;
          };
        };
      };
    deferredModule = deferredModuleWith { };
    deferredModuleWith = { staticModules ? [ ] }: mkOptionType {
      name = "deferredModule"; description = "module"; descriptionClass = "noun";
      check = x: isAttrs x || isFunction x || path.check x;
      merge = loc: defs: { imports = staticModules ++ map (d: setDefaultModuleLocation "${d.file}, via option ${showOption loc}" d.value) defs; };
      inherit (submoduleWith { modules = staticModules; }) getSubOptions;
      getSubModules = staticModules;
      substSubModules = m: deferredModuleWith { staticModules = m; };
      functor = functorOf "deferredModuleWith" {
        payload = { inherit staticModules; }; type = deferredModuleWith;
        binOp = a: b: { staticModules = a.staticModules ++ b.staticModules; };
      };
    };
  };
in
types
