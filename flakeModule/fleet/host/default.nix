# One entry of `hosts`. Nothing in here may read a host's NixOS configuration: plans are made from it.
{
  config,
  fleetTypes,
  lib,
  name,
  options,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;
in
{
  _class = "fleetHost";

  imports = [
    ./deploy.nix
    ./guard.nix
    ./health.nix
    ./network.nix
    ./nixpkgs.nix
  ];

  options = {
    name = mkOption {
      type = types.str;
      readOnly = true;
      description = "The host's name: its key in `hosts`.";
    };

    systemIsSet = mkOption {
      type = types.bool;
      internal = true;
      readOnly = true;
      description = "Whether `system` is set, so that a check can say so instead of failing.";
    };

    system = mkOption {
      type = fleetTypes.system;
      description = "The system that the host runs.";
      example = "x86_64-linux";
    };

    tags = mkOption {
      type = types.listOf fleetTypes.tag;
      default = [ ];
      apply = tags: lib.sort builtins.lessThan (lib.unique tags);
      description = ''
        Names for groups of hosts: `--on @web` selects the hosts with the tag `web`. Every host also has the tags `all` and `system/<system>`.
      '';
      example = [
        "web"
        "canary"
      ];
    };

    nixos = mkOption {
      type = types.deferredModule;
      default = { };
      description = "NixOS configuration of this host, with the same module arguments as `nixos` of the fleet.";
      example = literalExpression "{ imports = [ ./web-1 ]; }";
    };
  };

  config = {
    inherit name;
    systemIsSet = options.system.isDefined;
    # A host without a system is a failed check, which must come to be told of although a module asks for tags.
    tags = [ "all" ] ++ lib.optional config.systemIsSet "system/${config.system}";
  };
}
