# All of the stand-in's NixOS.
{
  imports = [ ./options.nix ./etc.nix ./systemd.nix ./users.nix ./activation.nix ./toplevel.nix ];
}
