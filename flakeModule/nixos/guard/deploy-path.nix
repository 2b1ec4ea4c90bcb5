# What a deployment comes through is not restarted below it. NixOS restarts sshd without stopping it first, and leaves its connections alone.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkDefault mkIf mkMerge;

  networkmanager = config.networking.networkmanager.enable or false;
  openssh = config.services.openssh;
  perConnection = openssh.enable && openssh.startWhenNeeded or false;
in
{
  systemd.services = mkMerge [
    # A restart takes the links down, and a changed connection is not taken up by one: NetworkManager's state is its own.
    (mkIf networkmanager {
      NetworkManager.restartIfChanged = mkDefault false;
    })

    # One of these is the connection that the operator watches through. The next one is made from the new unit in any case.
    (mkIf perConnection {
      "sshd@".restartIfChanged = mkDefault false;
    })
  ];
}
