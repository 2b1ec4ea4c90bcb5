# From the entries of a fleet to NixOS systems. The overlay is that of fleet's generators.
{ lib, overlay }:
let
  inherit (lib) isAttrs mapAttrs;

  describe =
    value:
    if !isAttrs value then
      "a value of type ${builtins.typeOf value}"
    else if value ? stdenv then
      "a package set (import nixpkgs { … })"
    else if value ? outPath && !(value ? lib) then
      "an input without outputs (flake = false)"
    else
      "an attribute set without lib.nixosSystem";

  checked =
    option: value:
    if isAttrs value && value ? lib && value.lib ? nixosSystem then
      value
    else
      throw ''
        ${option} must be a nixpkgs flake, but it is ${describe value}.
        Give it the flake input itself: ${option} = inputs.nixpkgs;
      '';
in
{
  /**
    A nixpkgs flake, or an error that says what it is instead.

    Type:   String -> Value -> Flake
    Inputs: the option that it is of; its value
  */
  nixpkgs = checked;

  /**
    The NixOS systems of a fleet, by host. Each is evaluated when it is looked at, and looking at one evaluates no other, except for what
    its modules read from `nixosHosts`.

    Type:   { fleet, config, secrets, hostArgs, inputsFor, selfFor } -> { <host> = NixosSystem }
    Inputs:
      fleet      the fleet's name, for messages
      config     the evaluated configuration of the fleet's modules
      secrets    what secrets.ofFleet returned
      hostArgs   module arguments that are the same for all hosts
      inputsFor  system -> what host modules get as inputs'
      selfFor    system -> what host modules get as self'
  */
  evaluate =
    {
      fleet,
      config,
      secrets,
      hostArgs,
      inputsFor,
      selfFor,
    }:
    let
      systems = mapAttrs evaluateHost config.hosts;

      # Reading an option of a peer evaluates the peer, except for its secrets, which the state knows. A set whose names came from the peer's
      # configuration would evaluate it for any of them, so they come from the host that asks. What modules ask of all peers belongs into
      # the entries of `hosts`, which cost nothing.
      view =
        name: peer: system:
        let
          asking = systems.${name};
          secretsOfAsking = asking.config.secrets;
        in
        if peer == name then
          asking.config
        else
          lib.genAttrs (lib.attrNames (removeAttrs asking.options [ "_module" ])) (
            option: system.config.${option}
          )
          // {
            secrets = secretsOf.${name}.view {
              names = lib.attrNames secretsOfAsking;
              partsOf = secret: lib.attrNames (secretsOfAsking.${secret}._fleet.parts or { });
            } peer;
          };

      secretsOf = mapAttrs (name: _: secrets.ofHost name) config.hosts;

      evaluateHost =
        name: host:
        let
          nixpkgs =
            checked "fleetConfigurations.${fleet}.hosts.${name}.nixpkgs.buildUsing"
              host.nixpkgs.buildUsing;
        in
        nixpkgs.lib.nixosSystem {
          inherit (host) system;
          # These are special arguments so that `imports` can depend on them.
          specialArgs = hostArgs // {
            inherit host;
            nixosHosts = mapAttrs (view name) systems;
            fleetSecrets = secretsOf.${name};
            inherit (config) hosts;
            inputs' = inputsFor host.system;
            self' = selfFor host.system;
          };
          modules = [
            ../nixos
            {
              _file = ./systems.nix;
              key = "${toString ./systems.nix}#overlays";
              nixpkgs.overlays = [ overlay ] ++ config.nixpkgs.overlays ++ host.nixpkgs.overlays;
            }
            config.nixos
            host.nixos
          ];
        };
    in
    systems;
}
