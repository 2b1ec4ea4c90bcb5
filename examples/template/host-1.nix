# NixOS configuration of host-1. Put what nixos-generate-config wrote on the host beside it.
{
  # imports = [ ./hardware-configuration.nix ];

  boot.loader.systemd-boot.enable = true;

  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };

  # Without a key you lock yourself out.
  users.users.root.openssh.authorizedKeys.keys = [ ];

  system.stateVersion = "26.05";
}
