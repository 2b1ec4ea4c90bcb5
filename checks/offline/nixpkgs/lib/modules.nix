# The module system: modules in, one configuration out.
# Four steps: load every module, merge the declarations, merge the definitions, refuse what nobody declared.
{ lib }:
let
  inherit (builtins) addErrorContext attrNames attrValues concatMap elem filter foldl' genericClosure head isAttrs isList isString length mapAttrs zipAttrsWith;
  inherit (lib) concatMapStringsSep imap1 isFunction isOption mkOption optional optionalAttrs reverseList setAttrByPath showFiles showOption throwIf types;
  inherit (lib.options) showDefs;

  group = zipAttrsWith (_: vs: vs);

  # Arguments that nobody passes come from _module.args, which is only known when everything is merged.
  applyArgs = what: args: f:
    f (args // mapAttrs
      (name: _: addErrorContext "while evaluating the module argument `${name}' in \"${what}\":" (args.${name} or args.config._module.args.${name}))
      (lib.functionArgs f));

  structured = [ "_class" "_file" "key" "disabledModules" "imports" "options" "config" "meta" "freeformType" ];
  # A module in either spelling -> { file, key, class, disabled, imports, options, config }.
  unify = file: key: m:
    let
      extra = removeAttrs m structured;
      meta = optional (m ? meta) { inherit (m) meta; } ++ optional (m ? freeformType) { _module = { inherit (m) freeformType; }; };
      config = if m ? config || m ? options then m.config or { } else removeAttrs m (structured ++ [ "require" ]);
    in
    throwIf (!isAttrs m) "module ${file} (${key}) does not look like a module."
      throwIf ((m ? config || m ? options) && extra != { }) ''
        Module `${key}' has an unsupported attribute `${head (attrNames extra)}'. This is caused by introducing a top-level `config' or `options' attribute. Add configuration attributes immediately on the top level instead, or move all of them (namely: ${toString (attrNames extra)}) into the explicit `config' attribute.''
      {
        file = toString m._file or file;
        key = toString m.key or key;
        class = m._class or null;
        disabled = m.disabledModules or [ ];
        imports = m.require or [ ] ++ m.imports or [ ];
        options = m.options or { };
        config = if meta == [ ] then config else mkMerge ([ config ] ++ meta);
      };

  load = args: parentFile: key: m:
    if isFunction m then unify parentFile key (applyArgs key args m)
    else if isAttrs m then
      (if (m._type or "module") == "module" then unify parentFile key m
      else if elem m._type [ "if" "override" ] then unify parentFile key { config = m; }
      else throw "Expected a module, but found a value of type \"${m._type}\", while trying to load a module into ${toString parentFile}.")
    else if isList m then
      throw "Module imports can't be nested lists. Perhaps you meant to remove one level of lists? Definitions: ${showDefs [ { file = parentFile; value = m; } ]}"
    else
      let path = toString m; imported = import m; in
      unify path path (if isFunction imported then applyArgs path args imported else imported);

  # All modules, each once per key, without those that one of them disables.
  collect = class: args: modules:
    let
      children = file: key: ms: imap1 (n: m: checked (load args file "${key}:anon-${toString n}" m)) ms;
      checked = m:
        if class != null && m.class != null && m.class != class
        then throw "The module `${m.file}` (class: \"${m.class}\") cannot be imported into a module evaluation that expects class \"${class}\"."
        else m;
      closure = keep: genericClosure {
        startSet = filter keep (children lib.unknownModule "" modules);
        operator = m: filter keep (children m.file m.key m.imports);
      };
      everything = closure (_: true);
      keyOf = d:
        if isAttrs d && d ? key then toString d.key
        else if isString d && !lib.hasPrefix "/" d then "${toString (args.modulesPath or "")}/${d}"
        else toString d;
      disabled = concatMap (m: map keyOf m.disabled) everything;
    in
    if disabled == [ ] then everything else closure (m: !elem m.key disabled);

  # What a definition of a whole tree says about its attributes: properties move down to the attributes.
  pushDown = loc: d:
    let
      go = v:
        if !isAttrs v then throw "In module `${d.file}', you're trying to define a value of type `${builtins.typeOf v}'\nrather than an attribute set for the option\n`${showOption loc}'!"
        else if ! v ? _type then [ v ]
        else if v._type == "merge" then concatMap go v.contents
        else if v._type == "if" then map (mapAttrs (_: mkIf v.condition)) (go v.content)
        else if v._type == "override" then map (mapAttrs (_: mkOverride v.priority)) (go v.content)
        else [ v ];
    in
    map (mapAttrs (_: value: { inherit (d) file; inherit value; })) (addErrorContext "while evaluating definitions from `${d.file}':" (go d.value));

  # decls: [ { file, options } ], defs: [ { file, value } ] -> { options, unmatched }.
  mergeTree = prefix: decls: defs:
    let
      declared = group (map (d: mapAttrs (_: option: { inherit (d) file; inherit option; }) d.options) decls);
      defined = group (concatMap (pushDown prefix) defs);
      merged = mapAttrs (name: ds: mergeName (prefix ++ [ name ]) ds defined.${name} or [ ]) declared;
    in
    {
      options = mapAttrs (_: m: m.options) merged;
      unmatched = concatMap (m: m.unmatched) (attrValues merged)
        ++ concatMap (name: map (d: d // { loc = prefix ++ [ name ]; }) defined.${name}) (attrNames (removeAttrs defined (attrNames declared)));
    };

  mergeName = loc: ds: defs:
    let
      leaves = filter (d: isOption d.option) ds;
      asLeaf = d: if isOption d.option then d else d // {
        option = mkOption { type = types.submoduleWith { modules = [ { _file = d.file; options = d.option; } ]; shorthandOnlyDefinesConfig = null; }; };
      };
      first = head leaves;
    in
    if leaves == [ ] then mergeTree loc (map (d: { inherit (d) file; options = d.option; }) ds) defs
    else if length leaves == length ds || (first.option.type or types.unspecified).getSubModules != null then {
      options = evalOption loc (mergeDecls loc (map (d: asLeaf (removeAttrs d [ "options" ])) ds)) defs;
      unmatched = [ ];
    }
    else
      throw "The option `${showOption loc}' in module `${first.file}' would be a parent of the following options, but its type `${(first.option.type or types.unspecified).description}' does not support nested options.\n${
        concatMapStringsSep "\n" (d: " - option(s) with prefix `${showOption (loc ++ [ (head (attrNames d.option)) ])}' in module `${d.file}'") (filter (d: !isOption d.option) ds)}";

  # One option out of its declarations. Only types can be declared twice, where they merge.
  mergeDecls = loc: ds:
    let
      withFile = d:
        let t = d.option.type or types.unspecified; in
        d.option // {
          declarations = [ d.file ];
          type = if t.getSubModules or null == null then t else t.substSubModules (map (setDefaultModuleLocation d.file) t.getSubModules);
        };
      add = a: b:
        let
          both = name: a ? ${name} && b ? ${name};
          type = a.type.typeMerge b.type.functor;
        in
        if both "default" || both "example" || both "description" || both "apply" || (both "type" && type == null)
        then throw "The option `${showOption loc}' in `${head b.declarations}' is already declared in ${showFiles a.declarations}."
        else a // b // { inherit type; declarations = a.declarations ++ b.declarations; };
    in
    foldl' add (withFile (head ds)) (map withFile (lib.drop 1 ds)) // { inherit loc; };

  evalOption = loc: opt: defs:
    let
      all = optional (opt ? default) { file = head opt.declarations; value = mkOptionDefault opt.default; } ++ defs;
      result = if opt.readOnly or false && length defs > 1 then
        throw "The option `${showOption loc}' is read-only, but it's set multiple times. Definition values:${showDefs defs}"
      else mergeDefinitions loc opt.type all;
      value = if opt ? apply then opt.apply result.mergedValue else result.mergedValue;
    in
    opt // {
      value = addErrorContext "while evaluating the option `${showOption loc}':" value;
      inherit (result) isDefined highestPrio defsFinal;
      definitionsWithLocations = result.defsFinal;
      definitions = map (d: d.value) result.defsFinal;
      files = map (d: d.file) result.defsFinal;
      valueMeta = { };
      __toString = _: showOption loc;
    };

  # mkMerge is flattened, what a mkIf switches off is dropped.
  discharge = v:
    if ! v ? _type then [ v ]
    else if v._type == "merge" then concatMap discharge v.contents
    else if v._type == "if" then
      (if !builtins.isBool v.condition then throw "‘mkIf’ called with a non-Boolean condition"
      else if v.condition then discharge v.content else [ ])
    else [ v ];

  mergeDefinitions = loc: type: defs:
    let
      flat = concatMap
        (d: map (v: if v._type or null == "definition" then { inherit (v) file value; } else { inherit (d) file; value = v; })
          (addErrorContext "while evaluating definitions from `${d.file}':" (discharge d.value)))
        defs;
      priority = d: if d.value._type or null == "override" then d.value.priority else defaultOverridePriority;
      highestPrio = foldl' (p: d: lib.min p (priority d)) 9999 flat;
      strongest = map (d: if d.value._type or null == "override" then d // { value = d.value.content; } else d)
        (filter (d: priority d == highestPrio) flat);
      order = d: if d.value._type or null == "order" then d.value.priority else defaultOrderPriority;
      defsFinal =
        if lib.any (d: d.value._type or null == "order") strongest
        then map (d: if d.value._type or null == "order" then d // { value = d.value.content; } else d)
          (builtins.sort (a: b: order a < order b) strongest)
        else strongest;
      wrong = filter (d: !type.check d.value) defsFinal;
      isDefined = defsFinal != [ ];
      mergedValue =
        if isDefined then
          (if wrong == [ ] then type.merge loc defsFinal
          else throw "A definition for option `${showOption loc}' is not of type `${type.description}'. Definition values:${showDefs wrong}")
        else type.emptyValue.value or (throw "The option `${showOption loc}' was accessed but has no value defined. Try setting the option.");
    in
    {
      inherit defsFinal highestPrio isDefined mergedValue;
      optionalValue = optionalAttrs isDefined { value = mergedValue; };
    };

  evalModules = evalArgs@{ modules, prefix ? [ ], specialArgs ? { }, class ? null, ... }:
    let
      internal = {
        _file = "lib/modules.nix";
        key = "lib/modules.nix";
        options._module = {
          args = mkOption { type = types.lazyAttrsOf types.raw; description = "Additional arguments passed to each module."; };
          check = mkOption { type = types.bool; internal = true; default = true; description = "Whether undeclared options are errors."; };
          freeformType = mkOption { type = types.nullOr types.optionType; internal = true; default = null; description = "Type of what is not declared."; };
          specialArgs = mkOption { readOnly = true; internal = true; description = "Arguments that are known while imports are resolved."; };
        };
        config._module = { args = { inherit extendModules; moduleType = type; }; inherit specialArgs; };
      };
      args = { inherit lib options specialArgs config; _class = class; _prefix = prefix; } // specialArgs;
      loaded = reverseList (collect class args (modules ++ [ internal ]));
      merged = mergeTree prefix loaded (map (m: { inherit (m) file; value = m.config; }) loaded);
      inherit (merged) options unmatched;
      values = mapAttrs (_: o: if isOption o then o.value else values o);
      declared = values options;
      freeform = declared._module.freeformType.merge prefix
        (map (d: { inherit (d) file; value = setAttrByPath (lib.drop (length prefix) d.loc) d.value; }) unmatched);
      config =
        if declared._module.freeformType == null || unmatched == [ ] then declared
        else lib.recursiveUpdate freeform declared;
      checked =
        if unmatched == [ ] || declared._module.freeformType != null || !declared._module.check then lib.id
        else
          let first = head unmatched; in
          throw ("The option `${showOption first.loc}' does not exist. Definition values:${showDefs [ first ]}"
            + lib.optionalString (attrNames options == [ "_module" ]) (
            if prefix == [ ] then "\n\nIt seems as if you're trying to declare an option by placing it into `config' rather than `options'!\n"
            else "\n\nHowever there are no options defined in `${showOption prefix}'. Are you sure you've\ndeclared your options properly?\n"));
      extendModules = more: evalModules (evalArgs // {
        modules = modules ++ more.modules or [ ];
        specialArgs = specialArgs // more.specialArgs or { };
        prefix = more.prefix or prefix;
      });
      type = types.submoduleWith { inherit modules specialArgs class; };
    in
    {
      _type = "configuration";
      options = checked options;
      config = checked (removeAttrs config [ "_module" ]);
      _module = checked config._module;
      inherit extendModules type class;
    };

  defaultOverridePriority = 100;
  defaultOrderPriority = 1000;
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkOptionDefault = mkOverride 1500;
  mkOrder = priority: content: { _type = "order"; inherit priority content; };

  setDefaultModuleLocation = file: m: { _file = file; imports = [ m ]; };

  mapDefs = f: opt: mkIf opt.isDefined (f opt);
  aliasDefs = wrap: mapDefs (o: wrap (mkMerge (map (d: { _type = "definition"; inherit (d) file value; }) o.definitionsWithLocations)));
  withPriority = wrap: mapDefs (o: wrap (mkMerge (map (mkOverride o.highestPrio) o.definitions)));
  rename = { from, to, visible ? false, warn ? false, use ? lib.id }: { config, options, ... }:
    let old = lib.getAttrFromPath from options; in
    {
      options = setAttrByPath from (mkOption {
        inherit visible;
        description = "Alias of {option}`${showOption to}`.";
        type = (lib.attrByPath to { } options).type or (types.submodule { });
        apply = _: use (lib.attrByPath to (abort "Renaming error: option `${showOption to}' does not exist.") config);
      });
      config = mkMerge [
        (optionalAttrs (options ? warnings) {
          warnings = optional (warn && old.isDefined)
            "The option `${showOption from}' defined in ${showFiles old.files} has been renamed to `${showOption to}'.";
        })
        (withPriority (setAttrByPath to) old)
      ];
    };
in
{
  inherit defaultOrderPriority defaultOverridePriority evalModules mergeDefinitions mkIf mkMerge mkOptionDefault mkOrder mkOverride setDefaultModuleLocation;
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;
  mkDefinition = d: d // { _type = "definition"; };
  mkAliasDefinitions = aliasDefs lib.id;
  mkAliasAndWrapDefinitions = aliasDefs;
  mkAliasAndWrapDefsWithPriority = withPriority;
  mkDerivedConfig = opt: f: mkOverride (opt.highestPrio or defaultOverridePriority) (f opt.value);
  mkAliasOptionModule = from: to: rename { inherit from to; visible = true; };
  mkRenamedOptionModule = from: to: rename {
    inherit from to; warn = true; use = builtins.trace "Obsolete option `${showOption from}' is used. It was renamed to `${showOption to}'.";
  };
  mkRemovedOptionModule = name: instructions: { options, ... }: {
    options = setAttrByPath name (mkOption {
      visible = false;
      apply = _: throw "The option `${showOption name}' can no longer be used since it's been removed. ${instructions}";
    });
    config.assertions =
      let opt = lib.getAttrFromPath name options; in
      [ { assertion = !opt.isDefined; message = "The option definition `${showOption name}' in ${showFiles opt.files} no longer has any effect; please remove it.\n${instructions}\n"; } ];
  };
  importApply = file: args: setDefaultModuleLocation file (import file args);
  importJSON = file: { _file = file; config = lib.importJSON file; };
}
