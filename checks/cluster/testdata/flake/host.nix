# A host as a test describes it; see the fields of hostSpec in project_test.go.
host:
{ lib, pkgs, ... }:
{
  imports = map (name: ./modules + "/${name}.nix") (host.modules or [ ]);

  boot.loader.systemd-boot.enable = true;
  fileSystems."/" = {
    device = "/dev/disk/by-label/root";
    fsType = "ext4";
  };
  system.stateVersion = "26.05";
  services.openssh.enable = true;
  environment.etc.cluster-test.text =
    if host.evalError or false then throw "this host is broken on purpose" else host.content or "";
  environment.etc.broken = lib.mkIf (host.buildFails or false) {
    source = pkgs.runCommand "broken-on-purpose" { } ''
      echo "compiling the broken part"
      echo "error: line 7 does not compile" >&2
      exit 1
    '';
  };
  environment.etc.ballast = lib.mkIf (host ? ballastMiB) {
    source = pkgs.runCommand "ballast" { } ''
      head -c ${toString (host.ballastMiB * 1048576)} /dev/urandom >$out
    '';
  };
  environment.etc.pieces = lib.mkIf (host ? pieces) {
    text = lib.concatMapStringsSep "\n" (
      n: "${pkgs.runCommand "piece-${n}" { } "head -c 65536 /dev/urandom >$out"}"
    ) (map toString (lib.range 1 host.pieces));
  };
  systemd.services.cluster-test = {
    wantedBy = [ "multi-user.target" ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
    };
    script = ''
      ${lib.optionalString (host.slowSeconds or 0 > 0) "sleep ${toString host.slowSeconds}"}
      ${lib.optionalString (host.unitFails or false) "echo the unit is broken on purpose >&2; exit 1"}
      echo ${lib.escapeShellArg (host.content or "")} >/run/cluster-test
    '';
  };
  specialisation = lib.mkIf (host ? specialisation) {
    ${host.specialisation or "none"}.configuration = {
      environment.etc.specialised.text = host.specialisation;
    };
  };
}
