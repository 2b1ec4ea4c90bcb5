/**
  Secrets, as far as Nix has to do with them: what is declared, what the state in git holds, what is missing, which generators there are.

  Type:   { lib, names } -> { functions, overlay, ofFleet, … }
*/
{
  lib,
  names,
}:
let
  inherit (lib)
    attrNames
    filterAttrs
    genAttrs
    mapAttrs
    ;

  make = import ./make.nix { inherit lib; };
  masks = import ./mask.nix { inherit lib; };
  data = import ./data.nix { inherit lib masks; };
  functions = import ./builtins { inherit lib; };
  openState = import ./state.nix { inherit lib names; };
  specs = import ./spec.nix { inherit lib make; };
  graph = import ./graph.nix { inherit lib; };
  parts = import ./parts.nix { inherit lib; };

  call = import ./call.nix {
    inherit lib data functions;
    inherit (make) isGenerator;
  };

  ofHost = import ./host.nix {
    inherit
      lib
      call
      graph
      names
      parts
      programs
      specs
      ;
  };

  # The systems that a generator can be asked for: those of hosts, and those of operators.
  generatorSystems = names.targetSystems ++ [
    "aarch64-darwin"
    "x86_64-darwin"
  ];

  program = generator: {
    drvPath = builtins.unsafeDiscardStringContext generator.package.drvPath;
    program = builtins.unsafeDiscardStringContext "${generator.package}/bin/generate";
  };
  # The programs of generators by system, for those that are scripts.
  programs =
    generatorsOn:
    genAttrs generatorSystems (
      system: mapAttrs (_: program) (filterAttrs (_: g: g.kind == "script") (generatorsOn system))
    );
in
rec {
  inherit graph masks;

  /**
    Fleet's generators as an overlay. The set with all of them is how those are told from a user's of the same name.

    Type:   Overlay
  */
  overlay =
    final: _:
    let
      own = functions final;
    in
    own // { fleetGenerators = own; };

  /**
    The same as functions that need no packages yet: they return what an option `generator` can hold.

    Type:   { <name> = arguments -> Packages -> Generator }
  */
  public =
    let
      # A script and a host are two arguments.
      later =
        name: argument:
        lib.setFunctionArgs (pkgs: pkgs.fleetGenerators.${name} argument) { fleetGenerators = false; };
      curried =
        name: first:
        if lib.isString first || builtins.isPath first then
          second: lib.setFunctionArgs (pkgs: pkgs.fleetGenerators.${name} first second) { fleetGenerators = false; }
        else
          later name first;
    in
    mapAttrs (name: _: (if name == "mkImpureSecretGenerator" then curried else later) name) (
      functions (throw "no packages")
    );

  /**
    The name of a fleet's app, in commands that people are told to run.

    Type:   String -> String
    Example: command "default" => "nix run .#secrets --"
  */
  command = fleet: "nix run .#secrets${lib.optionalString (fleet != "default") "-${fleet}"} --";

  /**
    The secrets of a fleet.

    Type:   { fleet, config, self, nixpkgsOf } -> Secrets
    Inputs:
      fleet      its name
      config     the evaluated configuration of its modules
      self       the user's flake
      nixpkgsOf  what checks that an option holds a nixpkgs flake
    Output:
      command     how a person calls the program
      state       what ./state.nix returns
      shared      by name: { declaration, owners, unknown, generator, spec }
      dependencies  a spec -> the ids that it depends on
      programs    of the shared secrets, by system
      ofHost      what ./host.nix returns, with a host's own pkgs and configuration still to come
  */
  ofFleet =
    {
      fleet,
      config,
      self,
      nixpkgsOf,
    }:
    let
      commandOf = command fleet;
      state = openState commandOf config.stateDir;
      mask = masks.mask self;
      inherit (config) hosts;

      # Packages of a fleet that belong to no host.
      packagesOn = genAttrs generatorSystems (
        system:
        packagesOf "nixpkgs.buildUsing" config.nixpkgs.buildUsing system (
          [ overlay ] ++ config.nixpkgs.overlays
        )
      );

      packagesOf =
        option: buildUsing: system: overlays:
        let
          packages = (nixpkgsOf option buildUsing).legacyPackages;
        in
        if packages ? ${system} then
          packages.${system}.appendOverlays overlays
        else
          throw ''
            A generator is to run on ${system}, and ${option} has no packages for it.
            Run it on another machine (impureOn), or use a nixpkgs that has them.
          '';

      callOn =
        pkgs:
        call {
          inherit pkgs mask;
          inherit (config.nixpkgs) overlays;
        };

      # What a plan says is the same for all systems, since store paths are masked in it.
      describing = callOn packagesOn.x86_64-linux;

      # By tag, the hosts that have it: a thousand secrets must not each look at a thousand hosts.
      withTag = mapAttrs (_: map (pair: pair.host)) (
        lib.groupBy (pair: pair.tag) (
          lib.concatMap (host: map (tag: { inherit host tag; }) hosts.${host}.tags) (attrNames hosts)
        )
      );

      expand =
        owner:
        if lib.hasPrefix "@" owner then
          withTag.${lib.removePrefix "@" owner} or [ ]
        else
          lib.optional (hosts ? ${owner}) owner;

      describe =
        name: declaration:
        let
          owners = lib.sort builtins.lessThan (lib.unique (lib.concatMap expand declaration.expectedOwners));
          generator =
            if declaration.generator == null then
              null
            else
              describing "sharedSecrets.${names.attr name}" declaration.generator;
        in
        {
          inherit declaration owners generator;
          # Owners that are nobody.
          unknown = lib.filter (owner: expand owner == [ ]) declaration.expectedOwners;
          spec = specs.render {
            inherit
              declaration
              generator
              owners
              mask
              ;
            resolve = reference: "shared/${reference}";
          };
        };

      shared = mapAttrs describe config.sharedSecrets;
    in
    {
      inherit shared state;
      inherit (specs) dependencies;
      command = commandOf;

      programs = mapAttrs (_: shared: { inherit shared; }) (
        programs (
          system:
          mapAttrs (
            name: secret: callOn packagesOn.${system} "sharedSecrets.${names.attr name}" secret.declaration.generator
          ) (filterAttrs (_: secret: secret.generator != null) shared)
        )
      );

      ofHost = ofHost {
        inherit
          fleet
          hosts
          mask
          shared
          state
          ;
        command = commandOf;
        packagesOn = packagesOf "nixpkgs.buildUsing of a host";
      };
    };
}
