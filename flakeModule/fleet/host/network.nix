{ fleetTypes, lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  _class = "fleetHost";

  options.network = {
    internalIps = mkOption {
      type = types.listOf fleetTypes.ip;
      default = [ ];
      description = ''
        Addresses by which the hosts of the fleet reach this one, with or without prefix length. They are for modules and tools to read; they
        configure nothing by themselves.
      '';
      example = [ "10.0.0.1" ];
    };

    externalIps = mkOption {
      type = types.listOf fleetTypes.ip;
      default = [ ];
      description = "Addresses by which the world reaches this host, for modules and tools to read.";
      example = [
        "192.0.2.1"
        "2001:db8::1/64"
      ];
    };
  };
}
