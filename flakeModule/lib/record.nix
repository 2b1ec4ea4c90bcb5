# The record of a host: what needs its modules. Its attributes are evaluated apart, and only when asked for.
{ lib, health }:
{
  /**
    The record of one host. `toplevel` is not called outPath, because Nix prints an attribute set with an attribute outPath
    as that attribute alone.

    Type:   NixosSystem -> { specs :: Specs, system :: { drvPath, toplevel :: String, specialisations :: [String] } }
    Inputs: what lib.nixosSystem returned
    Output: strings without context, so that reading a record builds nothing; the specs do not need the system
  */
  render =
    system:
    let
      inherit (system.config.system.build) toplevel;
    in
    {
      specs = system.config.system.build.fleetSecrets.specs // {
        health = health.render system.config.fleet.health;
      };
      system = {
        drvPath = builtins.unsafeDiscardStringContext toplevel.drvPath;
        toplevel = builtins.unsafeDiscardStringContext toplevel.outPath;
        specialisations = lib.attrNames (system.config.specialisation or { });
      };
    };
}
