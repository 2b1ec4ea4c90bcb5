# The Nix in README.md and in the guide is evaluated as it stands there, so that it cannot rot. The files that it names are in fixtures/readme.
{
  lib,
  callFlakeText,
  canReadTheStore,
  flake-parts,
  fleetBeside,
  wholeNixpkgs,
  ...
}:
let
  # Paths in a document are below its reader's flake.
  here = lib.replaceStrings [ "./" ] [ "${toString ../fixtures/readme}/" ];

  # The Nix blocks of a document, in order.
  blocks =
    file:
    map (block: here (lib.head (lib.splitString "\n```" block))) (
      lib.tail (lib.splitString "```nix\n" (builtins.readFile file))
    );

  nth = n: file: lib.elemAt (blocks file) n;

  readme = ../../../README.md;
  guide = ../../../docs/guide/getting-started.md;

  flake =
    nixpkgs: text:
    callFlakeText text {
      inherit nixpkgs flake-parts;
      fleet = fleetBeside nixpkgs;
    };

  # The first two blocks of the guide are parts of one flake, the third a module for its fleet.
  guideText = modules: ''
    {
      ${nth 0 guide}
      ${lib.replaceStrings
        [ "fleetConfigurations.default.hosts.web-1" ]
        [ "fleetConfigurations.default.imports = [ ${modules} ]; fleetConfigurations.default.hosts.web-1" ]
        (nth 1 guide)
      }
    }
  '';

  evaluates = fleet: lib.mapAttrs (_: host: lib.hasSuffix ".drv" host.record.system.drvPath) fleet.hosts;

  tests =
    nixpkgs:
    let
      fleetOf = text: (flake nixpkgs text).fleetConfigurations.default;
      readmeFleet = fleetOf (nth 0 readme);
      guideFleet = fleetOf (guideText "(${nth 2 guide})");
    in
    {
      TheReadmesFlakeEvaluates = {
        expr = evaluates readmeFleet;
        expected = {
          web-1 = true;
          db-1 = true;
        };
      };

      TheGuidesFlakeEvaluates = {
        expr = evaluates (fleetOf (guideText ""));
        expected.web-1 = true;
      };

      TheGuidesModuleEvaluates = {
        expr = {
          hosts = evaluates guideFleet;
          inherit (guideFleet.plan.hosts.web-1) tags;
          inherit (guideFleet.hosts.web-1.nixos.config.networking.firewall) allowedTCPPorts;
          named = lib.hasInfix "10.0.0.1 web-1.internal\n" guideFleet.hosts.web-1.nixos.config.networking.extraHosts;
        };
        expected = {
          hosts.web-1 = true;
          tags = [
            "all"
            "system/x86_64-linux"
            "web"
          ];
          allowedTCPPorts = [ 443 ];
          named = true;
        };
      };
    };
in
lib.optionalAttrs canReadTheStore (
  lib.concatMapAttrs (
    name: nixpkgs: lib.mapAttrs' (test: lib.nameValuePair "test${test}${name}") (tests nixpkgs)
  ) wholeNixpkgs
)
