# Options that are read in several places, and those that are only there to be set.
{ lib, config, _defaultPkgs, ... }:
let
  inherit (lib) genAttrs mkOption types;
  option = type: default: mkOption { inherit type default; description = "As in NixOS."; };
  yes = option types.bool true;
  no = option types.bool false;
  names = option (types.listOf types.str) [ ];
  ports = option (types.listOf types.port);
  # Accepted, and without effect.
  ignored = option (types.lazyAttrsOf types.anything) { };
  open = options: option (types.submodule { freeformType = types.lazyAttrsOf types.anything; inherit options; }) { };
  cfg = config.nixpkgs;
in
{
  options = genAttrs [ "nix" "i18n" "console" "documentation" "hardware" "powerManagement" "programs" "zramSwap" "virtualisation" ] (_: ignored) // {
    assertions = option (types.listOf types.unspecified) [ ];
    warnings = names;
    meta = option types.unspecified { };
    nixpkgs = {
      pkgs = mkOption { type = types.pkgs; description = "The package set of this system."; };
      hostPlatform = mkOption { type = types.either types.str types.attrs; apply = lib.systems.elaborate; description = "The platform that the system runs on."; };
      overlays = option (types.listOf types.raw) [ ];
    } // genAttrs [ "config" "flake" ] (_: ignored);
    networking = {
      hostName = option (types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$") "nixos";
      hosts = option (types.attrsOf (types.listOf types.str)) { };
      extraHosts = option types.lines "";
      nameservers = names;
      firewall = open { enable = yes; allowedTCPPorts = ports [ ]; allowedUDPPorts = ports [ ]; };
    } // genAttrs [ "domain" "useDHCP" "useNetworkd" "defaultGateway" ] (_: option types.raw null)
      // genAttrs [ "interfaces" "wireguard" "nftables" "networkmanager" ] (_: ignored);
    boot = open {
      isContainer = no;
      kernelParams = names;
      loader = open {
        timeout = option (types.nullOr types.int) 5;
        systemd-boot = open { enable = no; configurationLimit = option (types.nullOr types.int) null; };
        grub = open { enable = no; };
      };
    };
    fileSystems = option (types.attrsOf (types.submodule { freeformType = types.lazyAttrsOf types.anything; })) { };
    swapDevices = option (types.listOf types.raw) [ ];
    environment = { systemPackages = option (types.listOf types.package) [ ]; } // genAttrs [ "variables" "sessionVariables" "shellAliases" ] (_: ignored);
    services = {
      openssh = {
        enable = lib.mkEnableOption "the OpenSSH server";
        ports = ports [ 22 ];
        openFirewall = yes;
        settings = option (types.attrsOf (types.nullOr (types.oneOf [ types.bool types.int types.str (types.listOf types.str) ]))) { };
        authorizedKeysFiles = option (types.listOf types.str) [ ".ssh/authorized_keys" "/etc/ssh/authorized_keys.d/%u" ];
        hostKeys = option (types.listOf types.raw) [ ];
        extraConfig = option types.lines "";
      };
      userborn.enable = no;
    } // genAttrs [ "journald" "timesyncd" "resolved" "getty" "nginx" ] (_: ignored);
    security = { sudo = open { enable = yes; wheelNeedsPassword = yes; }; } // genAttrs [ "polkit" "pam" ] (_: ignored);
    time.timeZone = option (types.nullOr types.str) null;
  };

  config = {
    nixpkgs.pkgs = lib.mkDefault (
      let base = _defaultPkgs cfg.hostPlatform.system; in if cfg.overlays == [ ] then base else base.appendOverlays cfg.overlays
    );
    _module.args.pkgs = lib.mkForce cfg.pkgs;
    assertions = [
      { assertion = config.boot.isContainer || config.fileSystems ? "/"; message = "The ‘fileSystems’ option does not specify your root file system."; }
    ];
  };
}
