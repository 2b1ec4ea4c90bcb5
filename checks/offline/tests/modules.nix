# Configurations whose values must be the same with the stand-in's module system and with nixpkgs'. The values are in modules.golden.json.
{ lib }:
with lib;
let
  eval = modules: (evalModules { inherit modules; }).config;
  opt = type: mkOption { inherit type; };
  def = type: default: mkOption { inherit type default; };
  merged = type: values: (eval ([ { options.x = opt type; } ] ++ map (v: { x = v; }) values)).x;
  description = t: t.description;
in
{
  simple = eval [ { options.a = opt types.int; } { a = 1; } ];
  functionArgs = eval [ ({ foo, ... }: { options.a = def types.int foo; config._module.args.foo = 5; }) ];
  specialArgs = (evalModules { modules = [ ({ extra, ... }: { imports = extra; }) ]; specialArgs.extra = [ { options.a = def types.int 4; } ]; }).config;
  priorities = [ (merged types.int [ (mkDefault 1) 2 ]) (merged types.int [ (mkForce 1) 2 ]) (merged types.int [ (mkOverride 10 1) (mkForce 2) ]) (eval [ { options.a = def types.int 1; } { a = mkOptionDefault 1; } ]).a ];
  order = merged (types.listOf types.int) [ (mkAfter [ 3 ]) [ 2 ] (mkBefore [ 1 ]) (mkOrder 1200 [ 9 ]) ];
  definitionOrder = merged (types.listOf types.int) [ [ 1 ] [ 2 ] [ 3 ] ];
  importOrder = (eval [ { imports = [ { x = [ 1 ]; imports = [ { x = [ 2 ]; } ]; } { x = [ 3 ]; } ]; x = [ 4 ]; } { options.x = opt (types.listOf types.int); } { x = [ 5 ]; } ]).x;
  mkIfs = eval [ { options.a = def types.int 1; options.b.c = def types.int 1; } (mkIf true { a = 2; b = mkIf false { c = 5; }; }) { config = mkMerge [ { b.c = mkIf true 7; } (mkIf false { b.c = 8; }) ]; } ];
  mkIfInList = merged (types.listOf types.int) [ [ (mkIf false 1) (mkIf true 2) (mkMerge [ 3 ]) ] ];
  mkForceWhole = eval [ { options.s.a = def types.int 1; options.s.b = def types.int 2; } { s = mkForce { a = 5; }; } { s.a = 6; s.b = 7; } ];
  attrsOf = merged (types.attrsOf types.int) [ { a = 1; } { b = 2; c = mkIf false 3; } ];
  lazyAttrsOf = attrNames (merged (types.lazyAttrsOf (types.nullOr types.int)) [ { a = 1; } { c = mkIf false 3; } ]);
  nested = merged (types.attrsOf (types.listOf types.str)) [ { a = [ "x" ]; } { a = mkBefore [ "y" ]; } ];
  submodule = merged (types.attrsOf (types.submodule ({ name, config, ... }: { options = { n = def types.str name; m = def types.str (config.n + "!"); }; }))) [ { a = { }; b.n = "q"; } { b = { }; } ];
  submoduleFunction = merged (types.submodule { options.a = def types.int 1; options.b = def types.int 1; }) [ ({ config, ... }: { a = config.b + 1; }) { b = 5; } ];
  submoduleImports = merged (types.submoduleWith { modules = [ { options.a = opt types.int; } ]; }) [ { imports = [ { a = 3; } ]; } ];
  submoduleDefault = (eval [ { options.s = mkOption { type = types.submodule { options.x = def types.int 3; }; default = { }; }; } ]);
  submoduleNoDefault = (eval [ { options.s = mkOption { type = types.submodule { options.x = def types.int 3; }; }; } ]);
  submoduleDeclaredTwice = eval [ { options.s = opt (types.submodule { options.a = def types.int 1; }); } { options.s = opt (types.submodule { options.b = def types.int 2; }); } { s = { }; } ];
  optionBelowSubmodule = eval [ { options.s = mkOption { type = types.submoduleWith { modules = [ { options.a = def types.int 1; } ]; }; default = { }; }; } { options.s.b = def types.int 2; } ];
  freeform = eval [ { options.s = opt (types.submodule { freeformType = types.attrsOf types.int; options.a = def types.int 1; }); } { s.z = 3; } { s.y = 4; } ];
  freeformTop = eval [ { freeformType = types.lazyAttrsOf (types.attrsOf types.int); options.a.b = def types.int 1; } { a.b = 2; c.d = 3; } ];
  freeformNested = eval [ { freeformType = types.attrsOf types.anything; options.a.b = def types.int 1; } { a.c = 4; } ];
  deferred = let m = (eval [ { options.d = mkOption { type = types.deferredModule; default = { }; }; } { d = { lib, ... }: { a = 1; }; } { d.b = 2; } ]).d; in eval [ m { options.a = opt types.int; options.b = opt types.int; } ];
  deferredWith = let m = (eval [ { options.d = mkOption { type = types.deferredModuleWith { staticModules = [ { options.a = def types.int 1; } ]; }; default = { }; }; } { options.d = mkOption { type = types.deferredModuleWith { staticModules = [ { options.b = def types.int 2; } ]; }; }; } { d.a = 5; } ]).d; in eval [ m ];
  keyDedup = (eval [ { key = "k"; x = [ 1 ]; } { key = "k"; x = [ 1 ]; } { options.x = opt (types.listOf types.int); } ]).x;
  fileDedup = (eval [ ./dedup.nix { imports = [ ./dedup.nix ]; } { options.x = opt (types.listOf types.int); } ]).x;
  disabled = (eval [ ./dedup.nix { disabledModules = [ ./dedup.nix ]; } { key = "gone"; x = [ 7 ]; } { disabledModules = [ { key = "gone"; } ]; x = [ 2 ]; } { options.x = opt (types.listOf types.int); } ]).x;
  disabledByName = (evalModules { modules = [ ./dedup.nix { disabledModules = [ "dedup.nix" ]; x = [ 2 ]; } { options.x = opt (types.listOf types.int); } ]; specialArgs.modulesPath = ./.; }).config.x;
  apply = eval [ { options.a = mkOption { type = types.int; default = 1; apply = x: x + 1; }; } ];
  checkOff = eval [ { options.a = def types.int 1; } { _module.check = false; nope = 1; } ];
  types = [ (merged types.lines [ "a" "b" ]) (merged types.str [ "a" "a" ]) (merged types.bool [ true true ]) (merged types.path [ "/a" ]) (merged types.port [ 80 ])
    (merged (types.enum [ "a" "b" ]) [ "a" ]) (merged (types.nullOr types.int) [ null null ]) (merged (types.nullOr types.int) [ 3 ]) (merged (types.either types.int types.str) [ "a" ]) (merged (types.oneOf [ types.int types.str types.bool ]) [ true ])
    (merged (types.coercedTo types.int toString types.str) [ 5 ]) (merged (types.functionTo types.int) [ (x: x + 1) ] 5) (merged (types.functionTo (types.listOf types.int)) [ (x: [ x ]) (x: [ (x + 1) ]) ] 5)
    (merged types.raw [ { a = mkIf true 1; } ]).a._type (merged types.anything [ { a.b = 1; } { a.c = [ 1 ]; } ]) (merged types.anything [ (x: { a = x; }) (x: { b = x; }) ] 1) (merged types.attrs [ { a = 1; } { b = 2; } ])
    (merged types.unspecified [ [ 1 ] [ 2 ] ]) (merged (types.addCheck types.int (x: x > 1)) [ 2 ]) (merged (types.strMatching "a.*") [ "abc" ]) (merged (types.ints.between 1 5) [ 3 ]) (merged types.ints.unsigned [ 0 ]) (merged (types.nonEmptyListOf types.int) [ [ 1 ] ])
    (merged (types.uniq types.int) [ 1 ]) (merged types.number [ 1 ]) (merged types.float [ 1.5 ]) (merged types.singleLineStr [ "a" ]) (merged types.nonEmptyStr [ "a" ]) (merged (types.listOf (types.submodule { options.a = opt types.int; })) [ [ { a = 1; } ] [ { a = 2; } ] ]) ];
  emptyValues = [ (eval [ { options.x = opt (types.listOf types.int); } ]) (eval [ { options.x = opt (types.attrsOf types.int); } ]) (eval [ { options.x = opt (types.nullOr types.int); } ]) ];
  checks = map (t: map t.check [ 0 1 (-1) 70000 "" "a" "a\nb" "/a" null [ ] { } true 1.5 (x: x) ])
    (with types; [ int str bool float path port ints.positive ints.unsigned ints.u8 nonEmptyStr singleLineStr (strMatching "[a-z]") lines (enum [ "a" ]) (nullOr int) (listOf int) (attrsOf int) (either int str) raw anything unspecified attrs deferredModule (submodule { }) (functionTo int) package number ]);
  descriptions = map description (with types; [ int str bool path lines port ints.positive ints.unsigned ints.u8 (ints.between 1 2) (enum [ "a" "b" ]) (enum [ "a" ]) (nullOr str) (listOf str) (listOf (nullOr str)) (attrsOf int) (lazyAttrsOf int)
    (either int str) (oneOf [ int str bool ]) (nullOr (either int str)) (attrsOf (listOf str)) raw anything (submodule { }) deferredModule package (functionTo int) (strMatching "a") (coercedTo int toString str) float nonEmptyStr (nullOr (listOf str)) (either (listOf int) (listOf str)) (functionTo (nullOr int)) (listOf (coercedTo int toString str)) (uniq (nullOr str)) (nullOr (enum [ "a" "b" ])) (listOf (enum [ "a" ])) (nonEmptyListOf (nullOr int)) (nonEmptyListOf int) (attrsOf (either int str)) ]);
  customType = merged (mkOptionType { name = "sum"; check = isInt; merge = loc: defs: foldl' (a: d: a + d.value) 0 defs; }) [ 1 2 3 ];
  enumDeclaredTwice = (eval [ { options.x = opt (types.enum [ "a" ]); } { options.x = opt (types.enum [ "b" ]); } { x = "b"; } ]).x;
  options = let e = evalModules { modules = [ { _file = "f.nix"; options.a.b = mkOption { type = types.listOf types.int; default = [ ]; description = "d"; }; } { _file = "g.nix"; a.b = [ 1 ]; } ]; }; o = e.options.a.b; in
    [ o.isDefined o.files o.loc o.value o.definitions o.highestPrio o.declarations (map (d: d.file) o.definitionsWithLocations) (toString o) (showOption [ "a" "b c" "*" "<name>" ]) (isOption o) ];
  extend = ((evalModules { modules = [ { options.x = def (types.listOf types.int) [ ]; } { x = [ 1 ]; } ]; }).extendModules { modules = [ { x = [ 2 ]; } ]; }).config;
  moduleType = let e = evalModules { modules = [ { options.x = def types.int 1; } ]; }; in eval [ { options.s = mkOption { inherit (e) type; }; } { s.x = 4; } ];
  classOk = (evalModules { class = "c"; modules = [ { _class = "c"; options.a = def types.int 1; } { } ]; }).config;
  alias = (eval [ { options.new = def types.int 1; } (mkAliasOptionModule [ "old" ] [ "new" ]) { old = 5; } ]).new;
  renamed = (eval [ { options.warnings = def (types.listOf types.str) [ ]; options.new = def types.int 1; } (mkRenamedOptionModule [ "old" ] [ "new" ]) { _file = "f.nix"; old = 5; } ]);
  aliasDefinitions = (eval [ ({ options, ... }: { options.a = opt (types.listOf types.int); options.b = opt (types.listOf types.int); config.a = mkAliasDefinitions options.b; }) { b = [ 1 ]; } { b = [ 2 ]; } ]).a;
  derived = eval [ ({ options, ... }: { options.t = def (types.nullOr types.str) null; options.u = opt types.str; config.u = mkDerivedConfig options.t (t: "<${toString t}>"); }) { t = mkForce "x"; } { u = "weak"; } ];
  removed = map (a: a.message) (filter (a: !a.assertion) (eval [ { options.assertions = def (types.listOf types.raw) [ ]; } (mkRemovedOptionModule [ "old" ] "Use new.") { _file = "f.nix"; old = 5; } ]).assertions);
  importApply = eval [ (modules.importApply ./apply.nix { value = 3; }) ];
  importJSON = eval [ { options.a = opt types.int; } (modules.importJSON ./module.json) ];
  meta = eval [ { options.meta.x = opt types.int; meta.x = 3; } ];
  enable = eval [ { options.e = mkEnableOption "x"; } ];
  readOnlyOnce = eval [ { options.r = mkOption { readOnly = true; type = types.int; }; } { r = 1; } ];
  typeMergeNull = (types.int.typeMerge types.str.functor) == null;
  listOfTypeMerge = ((types.listOf types.int).typeMerge (types.listOf types.int).functor).description;
}
