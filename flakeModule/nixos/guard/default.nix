# What a host has of the guard in its own system: it brings a transaction to its end after a boot. All else comes with a deployment, so that a host's
# first one is guarded, too.
{
  imports = [
    ./boot-guard.nix
    ./boot-safety.nix
    ./deploy-path.nix
    ./health.nix
    ./online.nix
  ];
}
