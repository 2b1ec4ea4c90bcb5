# What a host must be able to do after an activation, seen from the fleet, and what is done around one.
{ fleetTypes, lib, ... }:
let
  inherit (lib) literalExpression mkOption types;

  program =
    when: example:
    mkOption {
      type = types.listOf types.str;
      default = [ ];
      inherit example;
      description = ''
        A program with its arguments that runs on the host as root ${when}. There is no shell around it. It is what the host has already, by a path such as
        `/run/current-system/sw/bin/…`. Empty is none.
      '';
    };
in
{
  _class = "fleetHost";

  options.deploy = {
    health = mkOption {
      type = types.attrsOf fleetTypes.healthCheck;
      default = { };
      description = ''
        What has to succeed before an activation is confirmed, beside the units of the host, which are looked at anyway. A check that fails rolls the host back. Modules of hosts have
        the same option as `fleet.health`; a check of the same name here replaces theirs.
      '';
      example = literalExpression ''
        {
          web = {
            http.url = "https://web-1.example.org/healthz";
            from = "operator";
          };
          database.tcp = "localhost:5432";
        }
      '';
    };

    drain = program "before an activation, to take work away from it; where it fails, nothing is activated" [
      "/run/current-system/sw/bin/kubectl"
      "drain"
      "web-1"
    ];

    undrain = program "after an activation, however that ended" [
      "/run/current-system/sw/bin/kubectl"
      "uncordon"
      "web-1"
    ];
  };
}
