# The record of a host: what needs its modules. Its attributes are evaluated apart, and only when asked for.
{ lib }:
{
  /**
    The record of one host. `toplevel` is not called outPath, because Nix prints an attribute set with an attribute outPath
    as that attribute alone.

    Type:   NixosSystem -> { system :: { drvPath, toplevel :: String, specialisations :: [String] } }
    Inputs: what lib.nixosSystem returned
    Output: strings without context, so that reading a record builds nothing
  */
  render =
    system:
    let
      inherit (system.config.system.build) toplevel;
    in
    {
      system = {
        drvPath = builtins.unsafeDiscardStringContext toplevel.drvPath;
        toplevel = builtins.unsafeDiscardStringContext toplevel.outPath;
        specialisations = lib.attrNames (system.config.specialisation or { });
      };
    };
}
