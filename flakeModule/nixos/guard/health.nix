# Health checks that a host's own modules declare.
{
  config,
  fleetHealth,
  fleetNames,
  fleetTypes,
  host,
  hosts,
  lib,
  ...
}:
let
  inherit (lib) literalExpression mkIf mkOption types;

  checks = config.fleet.health;

  failing = option: fault: {
    assertion = false;
    message = ''
      The host ${host.name}: ${option} ${fault}.
    '';
  };

  ofCheck =
    name: check:
    map (failing "fleet.health.${fleetNames.attr name}") (fleetHealth.faults hosts host.name name check);
in
{
  options.fleet.health = mkOption {
    type = types.attrsOf fleetTypes.healthCheck;
    default = { };
    description = ''
      What has to succeed before an activation of this host is confirmed, beside its units, which are looked at anyway. A check that fails rolls the host back. Programs may be store
      paths: they become part of the system. The same can be said in the fleet, as `hosts.<name>.deploy.health`, which replaces a check of the same name here.
    '';
    example = literalExpression ''
      {
        web.http.url = "http://localhost:8080/healthz";
        database.command = [ "''${config.services.postgresql.package}/bin/pg_isready" "--quiet" ];
      }
    '';
  };

  config = {
    assertions =
      map (failing "fleet.health") (fleetHealth.faultsOfAll checks)
      ++ lib.concatLists (lib.mapAttrsToList ofCheck checks);

    # For who activates this system and has not evaluated it, as with a rollback to it.
    environment.etc = mkIf (checks != { }) {
      "fleet/health.json".text = builtins.toJSON (fleetHealth.renderForHost checks);
    };
  };
}
