/**
  Fleets for tests of hosts' secrets, and what such tests say again and again. The state is ./fixtures/state, whose values open with no key.

  Type:   Context -> { <helper> = … }
*/
{
  lib,
  mkFleet,
  ...
}:
rec {
  x86 = "x86_64-linux";
  state = ./fixtures/state;

  hosts = {
    stateDir = lib.mkDefault state;
    # What a guarded host has beside its secrets is another topic.
    hostDefaults.deploy.guard.enable = false;
    hosts.a.system = x86;
    hosts.b.system = x86;
    hosts.c.system = x86;
  };

  fleet =
    module:
    mkFleet {
      imports = [
        hosts
        module
      ];
    };

  onA = nixos: (fleet { hosts.a.nixos = nixos; }).hosts.a;
  secretsOfA = secrets: (onA { inherit secrets; }).nixos.config.secrets;

  error = msg: expr: {
    inherit expr;
    expectedError = {
      type = "ThrownError";
      inherit msg;
    };
  };
  errorOnA = msg: nixos: error msg (onA nixos).record.system;

  password = { mkPassword }: mkPassword { };
  wireguard = { mkWireguard }: mkWireguard { };
  authority = { mkX509Ca }: mkX509Ca { subject.CN = "x"; };

  meta = id: builtins.fromJSON (builtins.readFile (state + "/secrets/${id}/meta.json"));
  commit = id: part: (meta id).parts.${part}.commit;

  user = {
    users.users.db.group = "database";
    users.groups.database = { };
  };

  manifest = host: builtins.fromJSON host.nixos.config.environment.etc."fleet/secrets.json".source.text;

  # Hosts that all know the public keys of all.
  mesh =
    count: more:
    mkFleet (
      { fleetLib, ... }:
      {
        imports = [ more ];
        stateDir = lib.mkDefault state;
        hosts = lib.listToAttrs (
          lib.genList (i: lib.nameValuePair "h${toString i}" { system = x86; }) count
        );
        nixos =
          {
            host,
            hosts,
            nixosHosts,
            ...
          }:
          {
            secrets.wireguard.generator = wireguard;
            note = lib.mapAttrs (
              name: _: nixosHosts.${name}.secrets.wireguard.public.data
            ) (fleetLib.others host.name hosts);
          };
      }
    );

  onlyMayBeEvaluated =
    wanted:
    { host, ... }:
    if host.name == wanted then { } else throw "host ${host.name} was evaluated for ${wanted}";
}
