# A fleet of the hosts in a JSON file.
file:
{ lib, ... }:
{
  hosts = lib.mapAttrs (_: host: {
    system = "x86_64-linux";
    tags = host.tags or [ ];
    deploy = host.deploy or { };
    nixos = import ./host.nix host;
  }) (builtins.fromJSON (builtins.readFile file));
}
