# What a generator was called with, as plain data: it decides whether a secret is made anew.
{ lib, masks }:
let
  inherit (lib) concatMap isAttrs isFunction isList isString;

  # Sets that are no data: derivations and flakes, package sets and libraries, values of the module system.
  opaque =
    value: value ? outPath || value ? extend || value ? stdenv || value ? _type || isFunction value;

  # A list with the value in it, or an empty one where the value is no data.
  clean =
    mask: value:
    if isAttrs value then
      lib.optional (!opaque value) (cleanAttrs mask value)
    else if isList value then
      [ (concatMap (clean mask) value) ]
    else if isString value then
      [ (mask value) ]
    else if builtins.isPath value then
      [ "<file ${masks.contents value}>" ]
    else if isFunction value then
      [ ]
    else
      [ value ];

  cleanAttrs =
    mask: attrs:
    lib.listToAttrs (
      concatMap (name: map (lib.nameValuePair name) (clean mask attrs.${name})) (lib.attrNames attrs)
    );
in
{
  /**
    The data in what a function was called with. Functions and derivations are left out, and `impureOn`, which says where the generator
    runs and not what it makes; store paths are masked.

    Type:   (String -> String) -> [Value] -> [Value]
    Inputs: the mask; the arguments, in order
  */
  ofArguments =
    mask:
    concatMap (
      argument:
      clean mask (
        if isAttrs argument && !opaque argument then removeAttrs argument [ "impureOn" ] else argument
      )
    );

  /**
    The data that a generator was given by hand.

    Type:   (String -> String) -> Value -> Value
  */
  ofValue = mask: value: lib.head (clean mask value ++ [ null ]);
}
