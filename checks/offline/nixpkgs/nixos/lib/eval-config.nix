# Evaluates NixOS modules, with the arguments of nixpkgs' own nixos/lib/eval-config.nix.
{ lib ? import ../../lib
, system ? null
, pkgs ? null
, modules
, specialArgs ? { }
, baseModules ? map (n: ../modules + "/${n}") (builtins.attrNames (builtins.readDir ../modules))
, extraModules ? [ ]
, prefix ? [ ]
, defaultPkgs ? system: import ../.. { inherit system; }
, ...
}:
let
  noUserModules = lib.evalModules {
    class = "nixos";
    inherit prefix;
    specialArgs = { modulesPath = toString ../modules; inherit baseModules; } // specialArgs;
    modules = baseModules ++ extraModules ++ [ {
      _file = "nixos/lib/eval-config.nix";
      config = {
        nixpkgs.hostPlatform = lib.mkIf (system != null) (lib.mkDefault system);
        nixpkgs.pkgs = lib.mkIf (pkgs != null) (lib.mkForce pkgs);
        _module.args = { inherit noUserModules; _defaultPkgs = defaultPkgs; };
      };
    } ];
  };
  eval = noUserModules.extendModules { inherit modules; };
in
eval // {
  inherit (eval._module.args) pkgs;
  inherit lib;
}
