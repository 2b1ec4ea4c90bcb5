# A host is what the fleet says it is: its name and its platform.
{
  host,
  lib,
  pkgs,
  ...
}:
let
  platform = pkgs.stdenv.hostPlatform.system;
in
{
  # Stronger than mkDefault, which images use to leave the name to a cloud; weaker than what a user writes.
  networking.hostName = lib.mkOverride 900 host.name;

  assertions = [
    {
      assertion = platform == host.system;
      message = ''
        hosts.${host.name}.system is "${host.system}", but the host's modules make a system for "${platform}".
        Make hosts.${host.name}.system and nixpkgs.hostPlatform the same.
      '';
    }
  ];
}
