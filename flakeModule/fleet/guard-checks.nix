# The checks of how hosts are guarded and looked at. As with the others, only those that fail become entries of `checks`.
{
  config,
  fleetHealth,
  fleetNames,
  lib,
  ...
}:
let
  inherit (config) hosts;
  inherit (lib)
    concatLists
    concatMap
    filterAttrs
    mapAttrsToList
    optional
    ;

  valid = filterAttrs (name: _: fleetNames.isHostName name) hosts;
  entry = name: "hosts.${fleetNames.attr name}.deploy";

  # None can be ignored: the program would refuse the plan.
  failing = id: message: {
    name = id;
    value = {
      assertion = false;
      ignorable = false;
      inherit message;
    };
  };

  unknownVantage =
    name: vantage:
    failing "guard-vantage/${name}/${vantage}" ''
      ${entry name}.guard.vantages has "${vantage}", ${
        if vantage == name then
          "which is the host itself"
        else
          "and the fleet has no host of that name"
      }.
      Name another host of the fleet, or remove it.
    '';

  faulty =
    name: check: faults:
    failing "health/${name}/${check}" (
      lib.concatMapStrings (fault: ''
        ${entry name}.health.${fleetNames.attr check} ${fault}.
      '') faults
    );

  faultyAll =
    name: fault:
    failing "health/${name}" ''
      ${entry name}.health ${fault}.
    '';

  # A store path in a plan is nothing that the host has: it is no part of its system.
  elsewhere =
    name: option:
    failing "store-path/${name}/${option}" ''
      ${entry name}.${option} names a store path, and what the fleet says of a host is no part of the host's system, so the program would not be there.
      Put the program into environment.systemPackages in ${entry name}.nixos, and name it by /run/current-system/sw/bin/…${
        lib.optionalString (lib.hasPrefix "health" option) "; or say it there, in fleet.health"
      }.
    '';

  hasContext = words: words != null && lib.any builtins.hasContext words;

  ofHost =
    name:
    { deploy, ... }:
    let
      ofCheck =
        check: value:
        let
          faults = fleetHealth.faults hosts name check value;
        in
        optional (faults != [ ]) (faulty name check faults)
        ++ optional (hasContext value.command) (elsewhere name "health.${fleetNames.attr check}.command");

      ofProgram = option: optional (hasContext deploy.${option}) (elsewhere name option);
    in
    concatMap (
      vantage: optional (vantage == name || !(hosts ? ${vantage})) (unknownVantage name vantage)
    ) deploy.guard.vantages
    ++ concatLists (mapAttrsToList ofCheck deploy.health)
    ++ map (faultyAll name) (fleetHealth.faultsOfAll deploy.health)
    ++ ofProgram "drain"
    ++ ofProgram "undrain";
in
{
  _class = "fleet";

  checks = lib.listToAttrs (concatLists (mapAttrsToList ofHost valid));
}
