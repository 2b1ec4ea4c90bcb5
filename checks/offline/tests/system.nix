# NixOS systems of the tests.
lib:
let
  base = { pkgs, lib, ... }: {
    fileSystems."/" = { device = "/dev/disk/by-label/nixos"; fsType = "ext4"; };
    boot.loader.systemd-boot.enable = true;
    networking.hostName = lib.mkDefault "stand-in";
    environment.systemPackages = [ pkgs.hello ];
    environment.etc.foo.text = lib.mkDefault "x\n";
    environment.etc."copied/file" = { text = "copied\n"; mode = "0640"; group = "daemon"; };
    systemd.services.demo = {
      description = "Demo";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" "sshd.service" ];
      path = [ pkgs.hello ];
      environment.GREETING = "hello there";
      preStart = "true";
      script = "exec sleep 100000";
      serviceConfig.Restart = "always";
      restartTriggers = [ "a" ];
      stopIfChanged = false;
    };
    systemd.timers.tick = { wantedBy = [ "timers.target" ]; timerConfig.OnCalendar = "daily"; };
    systemd.services.tick.script = "true";
    users.users.fleet-stand-in = { isNormalUser = true; extraGroups = [ "fleet-stand-ins" ]; openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA test" ]; };
    users.groups.fleet-stand-ins = { };
    services.openssh = { enable = true; settings.PasswordAuthentication = false; };
    system.stateVersion = "26.05";
  };
  system = modules: lib.nixosSystem { system = "x86_64-linux"; modules = [ base ] ++ modules; };
in
{
  host = system [
    {
      # What a snippet before the users makes, they can use.
      users.users.fleet-stand-in.hashedPasswordFile = "/run/password-hash";
      system.activationScripts.password-hash = "echo '$6$salt$hash' > /run/password-hash\n";
      system.activationScripts.users.deps = [ "password-hash" ];
      specialisation.other.configuration = { environment.etc.foo.text = "special\n"; };
      specialisation.alone = { inheritParentConfig = false; configuration = { networking.hostName = "alone"; boot.isContainer = true; nixpkgs.hostPlatform = "x86_64-linux"; }; };
    }
  ];
  next = system [
    ({ lib, ... }: {
      environment.etc.foo.enable = false;
      environment.etc.bar.text = "new\n";
      environment.etc.motd.text = "declared\n";
      users.users.fleet-stand-in.hashedPasswordFile = "/run/no-password-hash";
      systemd.services.demo.environment.GREETING = lib.mkForce "bye";
      system.activationScripts.late = { deps = [ "etc" ]; text = "cat /etc/bar > /run/late\n"; };
      system.activationScripts.wrong = "false";
    })
  ];
  broken = system [ { assertions = [ { assertion = false; message = "first thing"; } { assertion = true; message = "fine"; } { assertion = false; message = "second thing"; } ]; } ];
  warns = system [ { warnings = [ "mind the gap" ]; } ];
  typo = system [ { services.opnssh.enable = true; } ];
}
