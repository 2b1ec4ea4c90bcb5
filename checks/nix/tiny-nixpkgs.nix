/**
  A nixpkgs with just enough NixOS to see what the module asks of it. It stands for nixpkgs where a test is about the module alone: it is small,
  so that what a host's configuration holds is known, and it carries a mark, so that a test can see which nixpkgs a host was built with.

  Type:   { lib } -> String -> Flake
  Inputs: nixpkgs' lib; the mark
*/
{ lib }:
mark:
let
  inherit (lib) mkOption types;

  fake =
    system: name: extra:
    derivation {
      inherit name system;
      builder = "/bin/sh";
      args = [
        "-c"
        "echo > $out"
      ];
    }
    // extra;

  packages = system: withOverlays system [ ];

  withOverlays =
    system: overlays:
    lib.fix (lib.foldl' (lib.flip lib.extends) (final: base system // {
      inherit lib;
      appendOverlays = more: withOverlays system (overlays ++ more);
    }) overlays);

  base = system: {
    stdenv.hostPlatform = { inherit system; };
    go.version = "1.26.0";
    buildGoModule =
      arguments: fake system "${arguments.pname}-${arguments.version}" { passthru = { inherit arguments; }; };
    mkShell = _: fake system "shell" { };
    nixfmt-tree = fake system "nixfmt-tree" { };
    gopls = fake system "gopls" { };
    shellcheck = fake system "shellcheck" { };
    writeText = name: text: fake system name { inherit text; };
    writeTextFile = { name, text, ... }: fake system name { inherit text; };
    writeShellScript = name: text: fake system name { inherit text; };
    writeShellScriptBin = name: text: fake system name { inherit text; };
    runCommand = name: _: text: fake system name { inherit text; };
    coreutils = fake system "coreutils" { };
  };

  unit = {
    freeformType = types.lazyAttrsOf types.anything;
    options = lib.genAttrs [ "after" "before" "restartTriggers" "reloadTriggers" ] (
      _:
      mkOption {
        type = types.listOf types.raw;
        default = [ ];
      }
    );
  };

  tinyNixos =
    { config, ... }:
    {
      options = {
        assertions = mkOption {
          type = types.listOf types.raw;
          default = [ ];
        };
        boot = {
          kernelParams = mkOption {
            type = types.listOf types.str;
            default = [ ];
          };
        }
        // lib.genAttrs [ "loader" "lanzaboote" ] (
          _:
          mkOption {
            type = types.lazyAttrsOf types.anything;
            default = { };
          }
        );
        environment.etc = mkOption {
          type = types.lazyAttrsOf types.raw;
          default = { };
        };
        system.activationScripts = mkOption {
          type = types.lazyAttrsOf types.anything;
          default = { };
        };
        systemd = lib.genAttrs [ "services" "sockets" "timers" "paths" "targets" "slices" ] (
          _:
          mkOption {
            type = types.attrsOf (types.submodule unit);
            default = { };
          }
        )
        // {
          settings.Manager = mkOption {
            type = types.attrsOf types.str;
            default = { };
          };
          sysusers.enable = mkOption {
            type = types.bool;
            default = false;
          };
        };
        users = lib.genAttrs [ "users" "groups" ] (
          _:
          mkOption {
            type = types.lazyAttrsOf types.raw;
            default = { };
          }
        );
        networking.hostName = mkOption {
          type = types.str;
          default = "nixos";
        };
        networking.firewall.allowedTCPPorts = mkOption {
          type = types.listOf types.port;
          default = [ ];
        };
        networking.networkmanager.enable = mkOption {
          type = types.bool;
          default = false;
        };
        services.openssh = lib.genAttrs [ "enable" "startWhenNeeded" ] (
          _:
          mkOption {
            type = types.bool;
            default = false;
          }
        );
        nixpkgs.overlays = mkOption {
          type = types.listOf types.raw;
          default = [ ];
        };
        nixpkgs.system = mkOption { type = types.str; };
        note = mkOption {
          type = types.lazyAttrsOf types.str;
          default = { };
        };
        specialisation = mkOption {
          type = types.attrsOf types.raw;
          default = { };
        };
        mark = mkOption { type = types.str; };
        system.build = mkOption { type = types.lazyAttrsOf types.raw; };
      };
      config = {
        inherit mark;
        users = {
          users.root.group = "root";
          groups.root = { };
        };
        _module.args.pkgs = withOverlays config.nixpkgs.system config.nixpkgs.overlays;
        system.build.toplevel =
          let
            failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
          in
          if failed == [ ] then
            fake config.nixpkgs.system "nixos-system-${config.networking.hostName}" {
              note = builtins.toJSON config.note;
            }
          else
            throw "Failed assertions:\n${lib.concatStringsSep "\n" failed}";
      };
    };
in
{
  _type = "flake";
  outPath = "/tiny-nixpkgs-${mark}";
  legacyPackages = lib.genAttrs [
    "x86_64-linux"
    "aarch64-linux"
  ] packages;
  lib = lib // {
    nixosSystem =
      {
        modules,
        specialArgs ? { },
        system,
      }:
      lib.evalModules {
        class = "nixos";
        inherit specialArgs;
        modules = modules ++ [
          tinyNixos
          { nixpkgs.system = system; }
        ];
      };
  };
}
