# The plan: the contract between this module and the program. evaluator/plan/plan.go says what each field means,
# checks/golden/plan.schema.json what it may be. Nothing here may force a host's NixOS modules.
{ lib, health }:
let
  inherit (lib)
    attrValues
    genAttrs
    mapAttrs
    unique
    ;

  renderHost = fleet: name: host: {
    inherit (host) system tags;
    network = { inherit (host.network) internalIps externalIps; };
    deploy = {
      inherit (host.deploy)
        address
        port
        user
        jumpHosts
        hostKeys
        transport
        elevation
        buildOn
        relay
        relayPort
        substituteOnDestination
        specialisation
        drain
        undrain
        ;
      guard = {
        inherit (host.deploy.guard)
          enable
          switchTimeout
          rollbackTimeout
          confirmTimeout
          bootConfirm
          settle
          soak
          reboot
          ignoreUnits
          skipChecks
          vantages
          ;
      };
      health = health.render host.deploy.health;
    };
    record = [
      "fleetConfigurations"
      fleet
      "hosts"
      name
      "record"
    ];
  };
in
{
  /**
    The plan of a fleet.

    Type:   String -> FleetConfig -> Secrets -> Plan
    Inputs: the fleet's name; the evaluated configuration of its modules; what secrets.ofFleet returned
  */
  render = fleet: config: secrets: {
    formatVersion = 1;
    inherit fleet;
    helpers = genAttrs (unique (map (host: host.system) (attrValues config.hosts))) (system: {
      package = "fleet-helper-${system}";
    });
    hosts = mapAttrs (renderHost fleet) config.hosts;
    sharedSecrets = mapAttrs (_: secret: secret.spec) secrets.shared;
    inherit (config) warnings;
  };
}
