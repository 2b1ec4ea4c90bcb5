# Nobody listens for SSH any more.
{ lib, ... }:
{
  services.openssh.enable = lib.mkForce false;
}
