# Calls the functions that users give as generators, as callPackage would, and notes what they call functions of their overlays with.
{
  lib,
  data,
  isGenerator,
  functions,
}:
let
  inherit (lib)
    isAttrs
    isFunction
    mapAttrs
    optionalAttrs
    ;

  # What a function of an overlay was called with is data of the generator that it returns, unless that has data of its own.
  noted =
    mask: name: arguments: function: argument:
    let
      result = function argument;
      all = arguments ++ [ argument ];
    in
    if isGenerator result then
      result
      // optionalAttrs (result.kind == "script" && result.data == null) {
        data = {
          generator = name;
          arguments = data.ofArguments mask all;
        };
      }
    else if builtins.isFunction result then
      noted mask name all result
    else
      result;

  note =
    mask: name: value:
    if builtins.isFunction value then
      noted mask name [ ] value
    else if isAttrs value && value ? __functor then
      value // { __functor = self: noted mask name [ ] (value.__functor self); }
    else
      value;
in
/**
  Calls what an option `generator` holds.

  Type:   { pkgs, overlays, mask } -> String -> (Packages -> Generator) -> Generator
  Inputs:
    pkgs      the packages, with fleet's functions and the overlays in them
    overlays  the overlays that users gave; fleet's own among them does no harm
    mask      what masks store paths
    then what the generator is of, for messages, and the function
*/
{
  pkgs,
  overlays,
  mask,
}:
let
  own = functions pkgs;

  # Only the names are looked at, which most overlays tell without a look at the packages.
  byUsers = lib.filter (attrs: !(attrs ? fleetGenerators)) (map (overlay: overlay pkgs pkgs) overlays);
  isUsers = name: lib.any (attrs: attrs ? ${name}) byUsers;
  noteUsers = name: value: if isUsers name then note mask name value else value;

  # Fleet's own functions need no package set to be found, which is what makes plans cheap.
  isOwn = name: own ? ${name} && !isUsers name;
  get = name: if isOwn name then own.${name} else noteUsers name pkgs.${name};

  everything = pkgs // lib.genAttrs (lib.concatMap lib.attrNames byUsers) get;

  argument =
    what: name: optional:
    if isOwn name || pkgs ? ${name} then
      get name
    else
      throw ''
        The generator of ${what} asks for ${name}, which neither the packages nor fleet have.
        Correct the name, or add an overlay that has it: nixpkgs.overlays.
      '';

  arguments =
    what: formals:
    mapAttrs (argument what) (lib.filterAttrs (name: optional: !optional || isOwn name || pkgs ? ${name}) formals);
in
what: function:
let
  formals = lib.functionArgs function;
  result = function (if formals == { } then everything else arguments what formals);
in
if isGenerator result then
  result // optionalAttrs (result.given != null) { data = data.ofValue mask result.given; }
else
  throw ''
    The generator of ${what} returns ${
      if isFunction result then "a function: it was called with an argument too few" else "no generator, but a value of type ${builtins.typeOf result}"
    }.
    Let it return what mkSecretGenerator, mkImpureSecretGenerator or another of fleet's generators returns.
  ''
