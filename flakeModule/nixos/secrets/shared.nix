# The shared secrets that this host owns are here without being declared, with what the fleet says of them as defaults.
{ fleetSecrets, lib, ... }:
let
  inherit (lib) mkDefault mkIf;

  ofFleet =
    _:
    { declaration, ... }:
    {
      generator = mkDefault "shared";
      inherit (declaration) restartUnits reloadUnits;
    }
    // lib.genAttrs [
      "owner"
      "group"
      "mode"
      "neededForUsers"
    ] (option: mkIf (declaration.${option} != null) (mkDefault declaration.${option}));
in
{
  secrets = lib.mapAttrs ofFleet fleetSecrets.owned;
}
