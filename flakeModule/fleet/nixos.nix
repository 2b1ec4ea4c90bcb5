{ lib, ... }:
let
  inherit (lib) literalExpression mkOption types;
in
{
  _class = "fleet";

  options = {
    nixos = mkOption {
      type = types.deferredModule;
      default = { };
      description = ''
        NixOS configuration of every host. Beside the usual module arguments its modules get `host` (this host's entry in `hosts`),
        `hosts` (all entries), `nixosHosts` (the configurations of all hosts), `fleetLib`, `inputs`, `self`, and `inputs'` and `self'` for
        this host's system.

        Reading an option of another host in `nixosHosts` evaluates that host, and is for `config` and not for `imports`; the options are those that this host has, too. Its secrets are an
        exception: `nixosHosts.<host>.secrets.<name>.public.data` is answered from the state.
      '';
      example = literalExpression ''
        { host, ... }: {
          services.openssh.enable = true;
          users.motd = "This is ''${host.name}.";
        }
      '';
    };

    exportNixosConfigurations = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether the hosts appear in the flake's `nixosConfigurations`, for nixos-rebuild and similar programs: as `<host>` for the fleet
        `default`, as `<host>-<fleet>` for others.
      '';
    };

    flakeCheck = mkOption {
      type = types.enum [
        "hosts"
        "fleet"
      ];
      default = "hosts";
      description = ''
        What fleet's check in `nix flake check` evaluates: the fleet and the systems of all hosts, or the fleet alone. It evaluates
        all hosts in one process, which takes memory with a large fleet; a deployment evaluates the hosts in any case. Nix checks what is in
        `nixosConfigurations` by itself, so with `"fleet"` set `exportNixosConfigurations = false` as well to leave the hosts out altogether.
      '';
    };
  };
}
