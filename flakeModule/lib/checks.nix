# Checks of a fleet: which of them failed, and one error that names them all.
{ lib, names }:
let
  inherit (lib)
    attrNames
    concatMapStringsSep
    concatStringsSep
    filter
    optionalString
    removeSuffix
    replaceStrings
    ;

  indent =
    prefix: text: prefix + replaceStrings [ "\n" ] [ "\n${prefix}" ] (removeSuffix "\n" text);
in
rec {
  /**
    The checks that failed and that nobody said to ignore, sorted by id.

    Type:   { <id> = { assertion, message, ignore, ignorable } } -> [Check with id]
  */
  failed =
    checks:
    map (id: checks.${id} // { inherit id; }) (
      filter (
        id:
        let
          check = checks.${id};
        in
        !check.assertion && !(check.ignore && check.ignorable)
      ) (attrNames checks)
    );

  /**
    The text that tells of all failed checks at once, each with the line that silences it.

    Type:   String -> [Check with id] -> String
    Inputs: the fleet's name; what `failed` returned
  */
  render =
    fleet: failures:
    let
      option =
        id: "fleetConfigurations.${names.attr fleet}.checks.${names.attr id}.ignore = true;";
      one =
        check:
        "- [${check.id}]\n"
        + indent "    " check.message
        + "\n"
        + indent "    " (
          if check.ignorable then
            "To ignore it: ${option check.id}"
          else
            "This one cannot be ignored${optionalString check.ignore ", though ignore is set"}."
        );
      n = builtins.length failures;
    in
    "fleet \"${fleet}\": ${toString n} check${optionalString (n != 1) "s"} failed\n\n"
    + concatMapStringsSep "\n\n" one failures
    + "\n";

  /**
    The value, or the error that tells of all failed checks.

    Type:   String -> { <id> = Check } -> a -> a
  */
  guard =
    fleet: checks: value:
    let
      failures = failed checks;
    in
    if failures == [ ] then value else throw (render fleet failures);

  /**
    A list of names for a sentence.

    Type:   [String] -> String
    Example: sentence [ "a" "b" "c" ] => "a, b and c"
  */
  sentence =
    list:
    let
      n = builtins.length list;
    in
    if n < 2 then
      concatStringsSep "" list
    else
      concatStringsSep ", " (lib.take (n - 1) list) + " and " + lib.last list;
}
