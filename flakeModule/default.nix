/**
  The flake-parts module of fleet: the option `fleetConfigurations`, and the flake outputs made from it.

  It is a function so that it knows the flake that it came from, whose packages hold the program for every system.

  Type:   { fleet :: Flake } -> Module
  Inputs: fleet's own flake
*/
{ fleet }:
{
  config,
  inputs,
  lib,
  moduleLocation,
  self,
  ...
}:
let
  inherit (lib)
    literalExpression
    mapAttrs
    mapAttrs'
    mkOption
    nameValuePair
    optionalAttrs
    types
    ;

  fleetLib = import ./lib { inherit lib; };

  evaluateFleet = import ./evaluate.nix {
    inherit
      fleet
      fleetLib
      inputs
      lib
      self
      ;
    inherit (config) perInput transposition;
  };

  fleets = mapAttrs (
    name: module:
    if fleetLib.names.isFleetName name then
      evaluateFleet name module
    else
      throw ''
        fleetConfigurations.${fleetLib.names.attr name}: the name of a fleet may have letters, digits, - and _ only, since it becomes part of the
        names of apps and checks. Rename the fleet.
      ''
  ) config.fleetConfigurations;

  # What a fleet adds to nixosConfigurations, each with where it is from.
  exports =
    fleetName: evaluated:
    optionalAttrs evaluated.config.exportNixosConfigurations (
      mapAttrs' (
        host: system:
        nameValuePair (suffixed fleetName host) {
          inherit system;
          from = "fleetConfigurations.${fleetLib.names.attr fleetName}.hosts.${fleetLib.names.attr host}";
        }
      ) evaluated.systems
    );

  # The host web-staging of the fleet default and the host web of the fleet staging have one name there.
  exported =
    name: candidates:
    if builtins.length candidates == 1 then
      (builtins.head candidates).system
    else
      throw ''
        nixosConfigurations.${fleetLib.names.attr name} would be ${fleetLib.checks.sentence (map (c: c.from) candidates)}.
        Rename one of these hosts, or set exportNixosConfigurations = false in one of these fleets.
      '';

  # The fleet called default has no suffix anywhere.
  suffixed = fleetName: name: if fleetName == "default" then name else "${name}-${fleetName}";
in
{
  _class = "flake";

  options = {
    fleetConfigurations = mkOption {
      type = types.lazyAttrsOf types.deferredModule;
      default = { };
      description = ''
        Fleets: sets of NixOS hosts that are configured, checked and deployed together. `nix run .#deploy` deploys the one called `default`,
        `nix run .#deploy-staging` the one called `staging`.
      '';
      example = literalExpression ''
        {
          default = {
            nixos.services.openssh.enable = true;
            hosts.web-1 = {
              system = "x86_64-linux";
              deploy.address = "10.0.0.1";
              nixos.imports = [ ./web-1 ];
            };
          };
        }
      '';
    };

    flake.fleetModules = mkOption {
      type = types.lazyAttrsOf types.deferredModule;
      default = { };
      apply = mapAttrs (
        name: module: {
          _class = "fleet";
          _file = "${toString moduleLocation}#fleetModules.${fleetLib.names.attr name}";
          key = "${toString moduleLocation}#fleetModules.${fleetLib.names.attr name}";
          imports = [ module ];
        }
      );
      description = "Fleet modules for other flakes to put into the `imports` of their fleets.";
      example = literalExpression "{ monitoring = ./fleet-modules/monitoring.nix; }";
    };
  };

  config = {
    # What fleet has programs for is a good guess where a flake does not say for which systems it is.
    systems = lib.mkDefault (lib.attrNames fleet.packages);

    flake.fleetConfigurations = mapAttrs (_: evaluated: evaluated.output) fleets;

    flake.nixosConfigurations = mapAttrs exported (lib.zipAttrs (lib.mapAttrsToList exports fleets));

    perSystem = import ./per-system.nix {
      inherit
        fleet
        fleets
        lib
        self
        suffixed
        ;
    };
  };
}
