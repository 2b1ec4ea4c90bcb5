/**
  What the module adds per system of the operator: apps, checks, and the program for every target.

  Type:   { lib, fleet, fleets, self, suffixed } -> PerSystemModule
  Inputs:
    fleet     fleet's own flake
    fleets    the evaluated fleets by name
    self      the user's flake
    suffixed  fleet's name -> name -> name of the output
*/
{
  lib,
  fleet,
  fleets,
  self,
  suffixed,
}:
let
  inherit (lib)
    concatMapAttrs
    escapeShellArg
    mapAttrs
    mapAttrs'
    nameValuePair
    optionalAttrs
    ;

  # Names the host, since `nix flake check` evaluates all of them, and an error in NixOS modules names none.
  record =
    fleetName: name: host:
    builtins.addErrorContext "while evaluating the host ${name} of the fleet ${fleetName}" (
      builtins.deepSeq host.record host.record
    );

  # What a check of a fleet has evaluated, as text. Here and not below, so that the checks of all systems share it and warnings are shown once.
  evaluations = mapAttrs (
    fleetName:
    { config, output, ... }:
    let
      result = {
        inherit (output) plan;
        records = optionalAttrs (config.flakeCheck == "hosts") (
          mapAttrs (record fleetName) output.hosts
        );
      };
    in
    builtins.unsafeDiscardStringContext (
      lib.foldr (
        warning: builtins.trace "warning: fleet ${fleetName}: ${warning}"
      ) (builtins.toJSON result) config.warnings
    )
  ) fleets;

  # What is checked of secrets: every host's own, or the shared ones alone. A fleet that has none, and no state, has nothing to be checked.
  secretsOf = mapAttrs (
    fleetName:
    { config, output, ... }:
    let
      specs = optionalAttrs (config.flakeCheck == "hosts") (
        mapAttrs (
          name: host:
          builtins.addErrorContext "while evaluating the secrets of the host ${name} of the fleet ${fleetName}" {
            inherit (host.record) specs;
          }
        ) output.hosts
      );
      hasState = builtins.pathExists config.stateDir;
    in
    {
      any =
        hasState || output.plan.sharedSecrets != { } || lib.any (host: host.specs.secrets != { }) (lib.attrValues specs);
      plan = builtins.unsafeDiscardStringContext (builtins.toJSON (output.plan // { records = specs; }));
      # A copy of its own, so that other files of the flake are no reason to check it again.
      state = lib.optionalString hasState (
        builtins.path {
          path = config.stateDir;
          name = "fleet-state";
        }
      );
    }
  ) fleets;
in
{ system, ... }:
let
  packages = fleet.packages.${system};
  pkgs = fleet.inputs.nixpkgs.legacyPackages.${system};

  # Git for the state, and what local generators are confined with. What the machine has of its own comes first.
  tools =
    let
      wanted = [ "git" ] ++ lib.optional (lib.hasSuffix "-linux" system) "bubblewrap";
      found = map (name: pkgs.${name}) (lib.filter (name: pkgs ? ${name}) wanted);
    in
    lib.optionalString (found != [ ]) "export PATH=\"\${PATH:+$PATH:}${lib.makeBinPath found}\"\n";

  # --app-source tells the program which flake the app is from, so that it can refuse to deploy another one that happens to be in the
  # working directory.
  app = fleetName: name: arguments: description: {
    type = "app";
    program = toString (
      pkgs.writeShellScript (suffixed fleetName name) ''
        ${tools}exec ${packages.fleet-helper}/bin/fleet-helper --app-source ${escapeShellArg "${self}"} --fleet ${escapeShellArg fleetName} ${arguments} "$@"
      ''
    );
    meta = { inherit description; };
  };

  fleetApps = fleetName: _: {
    ${suffixed fleetName "deploy"} = app fleetName "deploy" "deploy" "Deploy the fleet ${fleetName}";
    ${suffixed fleetName "secrets"} = app fleetName "secrets" "secrets" "Look at and change the secrets of the fleet ${fleetName}";
    ${suffixed fleetName "fleet"} = app fleetName "fleet" "" "Look at and work on the fleet ${fleetName}";
  };

  # What was evaluated is written into the check, so that nix evaluates it again exactly when it changed. Without context, so that
  # checking builds no host.
  evaluation =
    fleetName: text:
    let
      name = "fleet-${fleetName}-eval";
    in
    nameValuePair name (pkgs.writeText name text);

  # What can be proven of secrets without a key is proven by the program.
  secretsCheck =
    fleetName: secrets:
    let
      name = "fleet-${fleetName}-secrets";
    in
    nameValuePair name (
      if secrets.any then
        pkgs.runCommand name { } ''
          state=${escapeShellArg secrets.state}
          if [ -z "$state" ]; then
            state=$PWD/none
            mkdir "$state"
          fi
          ${packages.fleet-helper}/bin/fleet-helper secrets-check --plan ${pkgs.writeText "${name}-plan.json" secrets.plan} --state "$state"
          touch "$out"
        ''
      else
        pkgs.writeText name "The fleet ${fleetName} has no secrets.\n"
    );
in
{
  config = optionalAttrs (fleet.packages ? ${system}) {
    apps = concatMapAttrs fleetApps fleets;
    checks = mapAttrs' evaluation evaluations // mapAttrs' secretsCheck secretsOf;
    packages =
      lib.filterAttrs (name: _: lib.hasPrefix "fleet-helper" name) packages
      # Another name for the same thing, which a flake that has a package of its own with this name can do without.
      // {
        fleet = lib.mkDefault packages.fleet;
      };
  };
}
