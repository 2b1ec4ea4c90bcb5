{
  config,
  fleetTypes,
  lib,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;
in
{
  _class = "fleet";

  options = {
    hosts = mkOption {
      type = types.attrsOf (
        types.submoduleWith {
          class = "fleetHost";
          specialArgs = {
            inherit fleetTypes;
            fleetNixpkgs = config.nixpkgs;
          };
          modules = [
            ./host
            config.hostDefaults
          ];
        }
      );
      default = { };
      description = "The hosts, by name. A host's name is its `networking.hostName` unless its modules say otherwise.";
      example = literalExpression ''
        {
          web-1 = {
            system = "x86_64-linux";
            tags = [ "web" ];
            deploy.address = "10.0.0.1";
            nixos.imports = [ ./web-1 ];
          };
        }
      '';
    };

    hostDefaults = mkOption {
      type = types.deferredModule;
      default = { };
      description = ''
        A module that is merged into every entry of `hosts`. It can set what is the same for all, in the options of a host and not of NixOS, and can
        declare more options for hosts.
      '';
      example = literalExpression ''
        { lib, ... }: {
          deploy.user = lib.mkDefault "admin";
          deploy.elevation = "sudo";
        }
      '';
    };
  };
}
