# Words of command lines, and what arguments are refused with.
{ lib }:
{
  /**
    A value as JSON, as one word.

    Type:   Value -> String
  */
  json = value: lib.escapeShellArg (builtins.toJSON value);

  /**
    A flag with its value; nothing for null.

    Type:   String -> Value -> String
  */
  flag =
    name: value: lib.optionalString (value != null) " --${name}=${lib.escapeShellArg (toString value)}";

  /**
    A value, where it is one of those that are allowed.

    Type:   String -> String -> [a] -> a -> a
    Inputs: the function and its argument, for the message
  */
  one =
    function: argument: allowed: value:
    if lib.elem value allowed then
      value
    else
      throw ''
        ${function}: ${argument} is ${builtins.toJSON value}, which is none of ${lib.concatStringsSep ", " allowed}.
        Give it one of these.
      '';
}
