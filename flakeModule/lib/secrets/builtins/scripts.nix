# Generators that people write.
{ make, pkgs, ... }:
{
  /**
    A generator of your own. The script writes parts into `$out`: what is piped through `gh private` or `encrypt` is encrypted, what is piped
    through `gh public` is not. It runs in a sandbox on the operator's machine, without network (`sandbox` is `"strict"`, `"network"` or `"none"`).
    `parts.<name>.encrypted` declares what comes out. `dependencies` are names of other secrets, which are files `$FLEET_DEPS/<name>/<part>`.
    `generationData` is what a new value is made for when it changes. A script alone will do, too.

    Type:   { script, parts ? null, generationData ? null, dependencies ? { }, sandbox ? "strict", runtimeInputs ? [ ], impureOn ? null } -> Generator
    Example: mkSecretGenerator { script = "date | gh private -o $out/secret"; parts.secret.encrypted = true; }
  */
  mkSecretGenerator = make.mkSecretGenerator pkgs;

  /**
    As `mkSecretGenerator`, with the host that the script runs on as `impureOn`: as the user who logs in there, with that user's PATH and, unless
    `sandbox` says otherwise, without a sandbox. It can also be called with the script and the host: `mkImpureSecretGenerator "…" "hsm-1"`.

    Type:   { script, impureOn ? null, … } -> Generator
  */
  mkImpureSecretGenerator = make.mkImpureSecretGenerator pkgs;
}
