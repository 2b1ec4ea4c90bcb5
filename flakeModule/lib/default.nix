/**
  The pure functions of the flake module. They take `lib` and nothing else, do no input or output, and know no option
  paths but those that they are told. Fleet modules and host modules get `public` as the module argument `fleetLib`.

  Type:   { lib } -> { types, checks, health, plan, record, systems, names, secrets, secretOptions, public }
*/
{ lib }:
let
  names = import ./names.nix { inherit lib; };
  secrets = import ./secrets { inherit lib names; };
  health = import ./health.nix { inherit lib; };
in
{
  inherit names secrets health;
  types = import ./types.nix { inherit lib names health; };
  secretOptions = import ./secrets/options.nix { inherit lib; };
  checks = import ./checks.nix { inherit lib names; };
  plan = import ./plan.nix { inherit lib health; };
  record = import ./record.nix { inherit lib health; };
  systems = import ./systems.nix {
    inherit lib;
    inherit (secrets) overlay;
  };
  public = import ./public.nix { inherit lib; } // secrets.public;
}
