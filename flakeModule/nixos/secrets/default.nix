# Secrets of a host: what they are called and belong to, and how they get to where they are used. A host that has none is as it would
# be without this.
{
  imports = [
    ./options.nix
    ./templates.nix
    ./shared.nix
    ./assertions.nix
    ./install.nix
    ./triggers.nix
  ];
}
