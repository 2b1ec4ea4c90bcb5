# A fleet of the hosts in a JSON file, and of what a test declares beside them.
file:
{ lib, ... }:
{
  imports = lib.optional (builtins.pathExists ./more.nix) ./more.nix;

  hosts = lib.mapAttrs (_: host: {
    system = "x86_64-linux";
    tags = host.tags or [ ];
    deploy = host.deploy or { };
    nixos = import ./host.nix host;
  }) (builtins.fromJSON (builtins.readFile file));
}
