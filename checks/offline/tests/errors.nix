# Mistakes whose messages must begin alike with the stand-in and with nixpkgs' lib. The first lines are in errors.golden.
{ lib }:
with lib;
let
  eval = modules: (evalModules { inherit modules; }).config;
  opt = type: mkOption { inherit type; };
  merged = type: values: (eval ([ { options.x = opt type; } ] ++ map (v: { _file = "f.nix"; x = v; }) values)).x;
in
{
  undeclared = eval [ { options.a = opt types.int; } { _file = "f.nix"; b.c = 1; } ];
  undeclaredInSubmodule = merged (types.attrsOf (types.submodule { options.a = opt types.int; })) [ { q.b = 1; } ];
  optionInConfig = eval [ { _file = "f.nix"; config.a = opt types.int; } ];
  wrongType = merged types.int [ "a" ];
  wrongTypeDeep = merged (types.attrsOf (types.listOf types.int)) [ { q = [ "a" ]; } ];
  wrongPort = merged types.port [ 70000 ];
  wrongEnum = merged (types.enum [ "a" "b" ]) [ "c" ];
  undefined = (eval [ { options.a = opt types.int; } ]).a;
  conflict = merged types.int [ 1 2 ];
  conflictRaw = merged types.raw [ 1 2 ];
  conflictNull = merged (types.nullOr types.int) [ null 2 ];
  readOnly = eval [ { options.r = mkOption { readOnly = true; type = types.int; }; } { r = 1; } { r = 2; } ];
  declaredTwice = eval [ { _file = "f.nix"; options.a = opt types.int; } { _file = "g.nix"; options.a = opt types.str; } ];
  parentOption = eval [ { _file = "f.nix"; options.a = opt types.int; } { _file = "g.nix"; options.a.b = opt types.str; } ];
  notATree = eval [ { options.a.b = opt types.int; } { _file = "f.nix"; a = 5; } ];
  unsupportedAttribute = eval [ { _file = "f.nix"; key = "f"; options.a = opt types.int; b = 1; } ];
  wrongClass = (evalModules { class = "one"; modules = [ { _class = "two"; _file = "f.nix"; } ]; }).config;
  nestedImports = eval [ { imports = [ [ { } ] ]; } ];
  notAModule = eval [ { imports = [ 5 ]; } ];
  missingArgument = eval [ ({ nope, ... }: { options.a = mkOption { default = nope; }; }) ];
  nonBooleanIf = merged types.int [ (mkIf "a" 1) ];
  removedOption = (eval [ { options.assertions = mkOption { type = types.listOf types.raw; default = [ ]; }; } (mkRemovedOptionModule [ "old" ] "Use new.") ]).old;
  emptyOneOf = types.oneOf [ ];
  throwIf = throwIf true "said so" 1;
  toInt = toInt "x";
  last = last [ ];
  getAttrFromPath = getAttrFromPath [ "a" ] { };
  unique = merged (types.unique { message = "Only one."; } types.int) [ 1 2 ];
  either = merged (types.either types.int types.str) [ [ ] ];
  pathType = merged types.path [ "a" ];
  submoduleType = merged (types.submodule { }) [ 5 ];
  emptyString = merged types.nonEmptyStr [ "" ];
}
