# An ordinary NixOS module: what every host has.
{
  boot.loader.systemd-boot.enable = true;

  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };
  fileSystems."/boot" = {
    device = "/dev/disk/by-label/ESP";
    fsType = "vfat";
  };

  services.openssh.enable = true;

  users.groups.cluster = { };
  users.users.cluster = {
    isSystemUser = true;
    group = "cluster";
  };

  system.stateVersion = "26.05";
}
