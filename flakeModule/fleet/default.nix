# The modules of a fleet: what can be said below fleetConfigurations.<name>.
{
  _class = "fleet";
  imports = [
    ./checks.nix
    ./guard-checks.nix
    ./hosts.nix
    ./nixos.nix
    ./nixpkgs.nix
    ./secret-checks.nix
    ./secrets.nix
    ./standard-checks.nix
  ];
}
