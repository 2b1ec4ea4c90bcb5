/**
  What the module adds per system of the operator: apps, checks, and the program for every target.

  Type:   { fleet, fleets, self, suffixed } -> PerSystemModule
  Inputs:
    fleet     fleet's own flake
    fleets    the evaluated fleets by name
    self      the user's flake
    suffixed  fleet's name -> name -> name of the output
*/
{
  fleet,
  fleets,
  self,
  suffixed,
}:
{ lib, system, ... }:
let
  inherit (lib)
    concatMapAttrs
    escapeShellArg
    mapAttrs
    mapAttrs'
    nameValuePair
    optionalAttrs
    ;

  packages = fleet.packages.${system};
  pkgs = fleet.inputs.nixpkgs.legacyPackages.${system};

  # --app-source tells the program which flake the app is from, so that it can refuse to deploy another one that happens to be in the
  # working directory.
  app = fleetName: name: arguments: description: {
    type = "app";
    program = toString (
      pkgs.writeShellScript (suffixed fleetName name) ''
        exec ${packages.fleet-helper}/bin/fleet-helper --app-source ${escapeShellArg "${self}"} --fleet ${escapeShellArg fleetName} ${arguments} "$@"
      ''
    );
    meta = { inherit description; };
  };

  fleetApps = fleetName: _: {
    ${suffixed fleetName "deploy"} = app fleetName "deploy" "deploy" "Deploy the fleet ${fleetName}";
    ${suffixed fleetName "fleet"} = app fleetName "fleet" "" "Look at and work on the fleet ${fleetName}";
  };

  # What was evaluated is written into the check, so that nix evaluates it again exactly when it changed. Without context, so that
  # checking builds no host.
  evaluation =
    fleetName: evaluated:
    let
      inherit (evaluated) config output;
      result = {
        inherit (output) plan;
        records = optionalAttrs (config.flakeCheck == "hosts") (
          mapAttrs (_: host: host.record) output.hosts
        );
      };
    in
    nameValuePair "fleet-${fleetName}-eval" (
      pkgs.writeText "fleet-${fleetName}-eval" (
        builtins.unsafeDiscardStringContext (
          lib.foldr (warning: builtins.trace "warning: fleet ${fleetName}: ${warning}") (builtins.toJSON result)
            config.warnings
        )
      )
    );
in
{
  config = optionalAttrs (fleet.packages ? ${system}) {
    apps = concatMapAttrs fleetApps fleets;
    checks = mapAttrs' evaluation fleets;
    packages = lib.filterAttrs (
      name: _: name == "fleet" || lib.hasPrefix "fleet-helper" name
    ) packages;
  };
}
