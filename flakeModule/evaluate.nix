/**
  The evaluation of one fleet.

  Type:   { lib, fleet, fleetLib, inputs, self, perInput, transposition } -> String -> Module -> Fleet
  Inputs:
    fleet     fleet's own flake
    fleetLib  what ./lib returns
    inputs    the inputs of the user's flake
    self      the user's flake
    perInput  flake-parts' function from a system and a flake to the flake's outputs for that system
    transposition  the names of those outputs, as an attribute set
    then the fleet's name and its module
  Output:
    output   what the flake shows as fleetConfigurations.<name>
    config   the configuration of the fleet's modules, unchecked
    systems  the NixOS systems by host
    guard    a -> a, or the one error that tells of all failed checks
*/
{
  lib,
  fleet,
  fleetLib,
  inputs,
  self,
  perInput,
  transposition,
}:
let
  inherit (lib) mapAttrs;

  # Nix before 2.14 does not mark flakes with a _type.
  isFlake = input: input._type or null == "flake" || input ? inputs && input ? outputs && input ? sourceInfo;

  inputsFor =
    system:
    mapAttrs (
      name: input:
      if isFlake input then
        perInput system input
      else
        throw ''
          inputs'.${name} was asked for, but the input ${name} is not a flake (flake = false).
          Use it as inputs.${name}, or remove flake = false from the input.
        ''
    ) inputs;

  # The program in a host's units: built by the host's own packages, so that nothing else has to be built for its system, or fleet's own where
  # these are too old for it. It is static, so either will do.
  helper =
    pkgs:
    let
      inherit (pkgs.stdenv.hostPlatform) system;
    in
    if import ./go-builder.nix { inherit lib; } pkgs != null then
      import ./package.nix { inherit lib pkgs; }
    else
      fleet.packages.${system}.fleet-helper or (throw ''
        The packages of a host for ${system} have no Go 1.26 or newer, and fleet itself has no program for ${system}.
        Give the host a newer nixpkgs: nixpkgs.buildUsing.
      '');

  # A fleet has hosts of several systems, so that it has to say which one it means. Using the argument as host modules do
  # ends in an error that says how.
  forAnySystem =
    argument: attributes: bySystem:
    mapAttrs (
      name: _:
      throw ''
        ${argument}.${name} was asked for in a fleet module, but a fleet has no system of its own.
        Write (${argument} "x86_64-linux").${name}, or take ${argument} as an argument of a NixOS module of the fleet, where it is for the host's system.
      ''
    ) attributes
    // {
      __functor = _: bySystem;
    };
in
name: module:
let
  evaluated = lib.evalModules {
    class = "fleet";
    prefix = [
      "fleetConfigurations"
      name
    ];
    # Special arguments, so that `imports` can depend on them.
    specialArgs = {
      inherit inputs self;
      inputs' = forAnySystem "inputs'" inputs inputsFor;
      self' = forAnySystem "self'" transposition (system: perInput system self);
      pkgs = throw ''
        pkgs was asked for in a fleet module, but a fleet has hosts of several systems, and no packages of its own.
        Take pkgs as an argument of a NixOS module of the fleet: nixos = { pkgs, ... }: { … }; or write inputs.nixpkgs.legacyPackages.x86_64-linux.
      '';
      fleetLib = fleetLib.public;
      fleetTypes = fleetLib.types;
      fleetNames = fleetLib.names;
      fleetChecks = fleetLib.checks;
      fleetHealth = fleetLib.health;
      fleetName = name;
      fleetSecretOptions = fleetLib.secretOptions;
      fleetSecretGraph = fleetLib.secrets.graph;
      fleetSecrets = secrets;
    };
    modules = [
      ./fleet
      module
    ];
  };
  inherit (evaluated) config;

  secrets = fleetLib.secrets.ofFleet {
    fleet = name;
    inherit config self;
    nixpkgsOf = option: fleetLib.systems.nixpkgs "fleetConfigurations.${name}.${option}";
  };

  guard = fleetLib.checks.guard name config.checks;

  systems = fleetLib.systems.evaluate {
    fleet = name;
    inherit config inputsFor secrets;
    selfFor = system: perInput system self;
    hostArgs = {
      inherit inputs self;
      fleetLib = fleetLib.public;
      fleetTypes = fleetLib.types;
      fleetNames = fleetLib.names;
      fleetHealth = fleetLib.health;
      fleetSecretOptions = fleetLib.secretOptions;
      fleetHelper = helper;
    };
  };
in
{
  inherit config guard systems;

  output = {
    inherit (evaluated) config options;
    plan = guard (fleetLib.plan.render name config secrets);
    generators = secrets.programs;
    hosts = mapAttrs (_: system: {
      record = fleetLib.record.render system;
      generators = system.config.system.build.fleetSecrets.programs;
      nixos = system;
    }) systems;
  };
}
