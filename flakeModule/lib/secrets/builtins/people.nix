# What a person is asked for.
{ lib, make, ... }:
let
  inherit (make) ask;
  inherit (lib) optionalString;
in
rec {
  /**
    A line that a person is asked for on the terminal, without echo.

    Type:   { prompt ? "Secret value", part ? "secret" } -> Generator
  */
  mkAskPassword =
    {
      prompt ? "Secret value",
      part ? "secret",
    }:
    ask {
      from = "terminal";
      inherit prompt part;
    };

  /**
    Another name of `mkAskPassword`.

    Type:   { prompt ? "Secret value", part ? "secret" } -> Generator
  */
  mkAskPass = mkAskPassword;

  /**
    A file that a person is asked for. `header` is what the person reads.

    Type:   { header ? "", part ? "secret" } -> Generator
  */
  mkAskFile =
    {
      header ? "",
      part ? "secret",
    }:
    ask {
      from = "file";
      prompt = if header == "" then "File with the secret value" else header;
      inherit part;
    };

  /**
    The value of an environment variable of the operator's: `variable`. With `variables` in its place, a file with a line `NAME=value` for
    each of them, which a person is asked for.

    Type:   { variable ? null, variables ? [ ], header ? "", prompt ? "", part ? "secret" } -> Generator
  */
  mkAskEnv =
    {
      variable ? null,
      variables ? [ ],
      header ? "",
      prompt ? header,
      part ? "secret",
    }:
    if variable != null then
      ask {
        from = "env";
        inherit part variable;
        prompt = if prompt == "" then "Value of ${variable}" else prompt;
      }
    else
      mkAskFile {
        header =
          optionalString (prompt != "") "${prompt}\n"
          + "File with the lines ${lib.concatMapStringsSep ", " (name: "${name}=…") variables}";
        inherit part;
      };
}
