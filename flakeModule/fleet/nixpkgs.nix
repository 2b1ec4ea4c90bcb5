{ fleetTypes, inputs, lib, ... }:
let
  inherit (lib) literalExpression mkOption types;
in
{
  _class = "fleet";

  options.nixpkgs = {
    buildUsing = mkOption {
      type = types.raw;
      default =
        inputs.nixpkgs or (throw ''
          The flake has no input named nixpkgs, so fleet does not know what to build hosts with.
          Add the input, or set nixpkgs.buildUsing of the fleet to another one: nixpkgs.buildUsing = inputs.nixpkgs-stable;
        '');
      defaultText = literalExpression "inputs.nixpkgs";
      description = "The nixpkgs flake that hosts are built with: a flake input, which has `lib.nixosSystem`.";
      example = literalExpression "inputs.nixpkgs-stable";
    };

    overlays = mkOption {
      type = types.listOf fleetTypes.overlay;
      default = [ ];
      description = "Overlays for the packages of every host.";
      example = literalExpression "[ (final: prev: { htop = prev.htop.override { sensorsSupport = false; }; }) ]";
    };
  };
}
