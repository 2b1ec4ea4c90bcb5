# Modules of a host. They may not say which class they are, since older NixOS rejects that; the class is set where the
# system is evaluated.
{
  imports = [
    ./guard
    ./identity.nix
    ./relay.nix
    ./secrets
  ];
}
