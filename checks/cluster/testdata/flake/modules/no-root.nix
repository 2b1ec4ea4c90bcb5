# sshd answers, and lets root in no more.
{
  services.openssh.settings.PermitRootLogin = "no";
}
