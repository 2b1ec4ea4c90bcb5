{
  fleetNixpkgs,
  fleetTypes,
  lib,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;
in
{
  _class = "fleetHost";

  options.nixpkgs = {
    buildUsing = mkOption {
      type = types.raw;
      default = fleetNixpkgs.buildUsing;
      defaultText = literalExpression "nixpkgs.buildUsing of the fleet";
      description = "The nixpkgs flake that this host is built with.";
      example = literalExpression "inputs.nixpkgs-unstable";
    };

    overlays = mkOption {
      type = types.listOf fleetTypes.overlay;
      default = [ ];
      description = "Overlays for this host's packages, after those of the fleet.";
      example = literalExpression "[ inputs.foo.overlays.default ]";
    };
  };
}
