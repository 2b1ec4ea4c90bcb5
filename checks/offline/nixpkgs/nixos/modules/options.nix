# Options that are read in several places, and those that are only there to be set.
{ lib, config, _defaultPkgs, ... }:
let
  inherit (lib) mkOption mkEnableOption types;
  ignored = mkOption { type = types.lazyAttrsOf types.anything; default = { }; description = "Accepted, and without effect in the stand-in."; };
  option = type: default: mkOption { inherit type default; description = "As in NixOS."; };
  open = options: mkOption {
    default = { };
    description = "As in NixOS where the stand-in knows it, accepted otherwise.";
    type = types.submodule { freeformType = types.lazyAttrsOf types.anything; inherit options; };
  };
  cfg = config.nixpkgs;
in
{
  options = {
    assertions = option (types.listOf types.unspecified) [ ];
    warnings = option (types.listOf types.str) [ ];
    meta = option types.unspecified { };
    nixpkgs = {
      pkgs = mkOption { type = types.pkgs; description = "The package set of this system."; };
      hostPlatform = mkOption {
        type = types.either types.str types.attrs;
        apply = lib.systems.elaborate;
        description = "The platform that the system runs on.";
      };
      buildPlatform = option types.raw null;
      system = option (types.nullOr types.str) null;
      localSystem = option types.raw null;
      overlays = option (types.listOf types.raw) [ ];
      config = option (types.lazyAttrsOf types.anything) { };
      flake = ignored;
    };
    networking = {
      hostName = option (types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$") "nixos";
      domain = option (types.nullOr types.str) null;
      hosts = option (types.attrsOf (types.listOf types.str)) { };
      extraHosts = option types.lines "";
      nameservers = option (types.listOf types.str) [ ];
      useDHCP = option types.bool true;
      useNetworkd = option types.bool false;
      firewall = open {
        enable = option types.bool true;
        allowedTCPPorts = option (types.listOf types.port) [ ];
        allowedUDPPorts = option (types.listOf types.port) [ ];
      };
      interfaces = ignored;
      wireguard = ignored;
      defaultGateway = option types.raw null;
      nftables = ignored;
    };
    boot = open {
      isContainer = option types.bool false;
      kernelParams = option (types.listOf types.str) [ ];
      loader = open {
        timeout = option (types.nullOr types.int) 5;
        systemd-boot = open {
          enable = option types.bool false;
          configurationLimit = option (types.nullOr types.int) null;
        };
        grub = open { enable = option types.bool false; };
      };
    };
    fileSystems = option (types.attrsOf (types.submodule ({ name, ... }: {
      freeformType = types.lazyAttrsOf types.anything;
      options.mountPoint = option types.str name;
      options.device = option (types.nullOr types.str) null;
      options.fsType = option types.str "auto";
      options.options = option (types.listOf types.str) [ "defaults" ];
    }))) { };
    swapDevices = option (types.listOf types.raw) [ ];
    environment.systemPackages = option (types.listOf types.package) [ ];
    environment.variables = ignored;
    environment.sessionVariables = ignored;
    environment.shellAliases = ignored;
    services.openssh = {
      enable = mkEnableOption "the OpenSSH server";
      ports = option (types.listOf types.port) [ 22 ];
      openFirewall = option types.bool true;
      settings = option (types.attrsOf (types.nullOr (types.oneOf [ types.bool types.int types.str (types.listOf types.str) ]))) { };
      authorizedKeysFiles = option (types.listOf types.str) [ ".ssh/authorized_keys" "/etc/ssh/authorized_keys.d/%u" ];
      hostKeys = option (types.listOf types.raw) [ ];
      extraConfig = option types.lines "";
    };
    security = { sudo = open { enable = option types.bool true; wheelNeedsPassword = option types.bool true; extraRules = option (types.listOf types.raw) [ ]; }; polkit = ignored; pam = ignored; };
    time.timeZone = option (types.nullOr types.str) null;
    nix = ignored;
    i18n = ignored;
    console = ignored;
    documentation = ignored;
    hardware = ignored;
    powerManagement = ignored;
    programs = ignored;
    zramSwap = ignored;
    virtualisation = ignored;
    services.journald = ignored;
    services.timesyncd = ignored;
    services.resolved = ignored;
    services.getty = ignored;
    services.nginx = ignored;
  };

  config = {
    nixpkgs.pkgs = lib.mkDefault (
      let base = _defaultPkgs cfg.hostPlatform.system; in if cfg.overlays == [ ] then base else base.appendOverlays cfg.overlays
    );
    _module.args.pkgs = lib.mkForce cfg.pkgs;
    assertions = [
      {
        assertion = config.boot.isContainer || config.fileSystems ? "/";
        message = "The ‘fileSystems’ option does not specify your root file system.";
      }
    ];
  };
}
