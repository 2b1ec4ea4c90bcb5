# What every option must say of itself. The options are walked as modules declare them, with everything that a default could read replaced
# by an error: what still has a value without defaultText is a literal.
{
  lib,
  fleet,
  flake-parts,
  mkFleet,
  nixpkgs,
  ...
}:
let
  fleetLib = import ../../../flakeModule/lib { inherit lib; };

  isOption = value: value._type or null == "option";

  # All options below a set of options, with their paths; not what submodules declare.
  walk =
    path: value:
    if isOption value then
      [ { inherit path value; } ]
    else if lib.isAttrs value then
      lib.concatLists (
        lib.mapAttrsToList (name: walk "${path}.${name}") (removeAttrs value [ "_module" ])
      )
    else
      [ ];

  read = what: throw "${what} was read";

  # The special argument config takes the place of the configuration.
  declared =
    modules: specialArgs:
    (lib.evalModules {
      inherit modules;
      specialArgs = {
        fleetTypes = fleetLib.types;
        fleetNames = fleetLib.names;
        fleetChecks = fleetLib.checks;
        fleetHealth = fleetLib.health;
        fleetSecretOptions = fleetLib.secretOptions;
        fleetSecretGraph = fleetLib.secrets.graph;
        fleetSecrets = read "the fleet's secrets";
        fleetName = read "the fleet's name";
        config = read "config";
      }
      // specialArgs;
    }).options;

  ofFleet = walk "" (declared [ ../../../flakeModule/fleet ] {
    inputs = read "inputs";
    self = read "self";
  });

  ofHost = walk "hosts.<name>" (
    declared [ ../../../flakeModule/fleet/host ] {
      fleetNixpkgs = read "the fleet's nixpkgs";
      name = read "name";
    }
  );

  # The type of an entry of checks is not a module of its own file.
  ofChecks = walk "checks.<name>" (
    (lib.findFirst (option: option.path == ".checks") null ofFleet).value.type.getSubOptions [ ]
  );

  # What hosts have from fleet, with what is below it.
  hostOptions = (mkFleet { hosts.a.system = "x86_64-linux"; }).hosts.a.nixos.options;
  ofNixos =
    lib.concatMap
      (
        name:
        walk "nixos.${name}" hostOptions.${name}
        ++ walk "nixos.${name}.<name>" (hostOptions.${name}.type.getSubOptions [ ])
      )
      [
        "secretIdentities"
        "secretTemplates"
        "secrets"
      ]
    ++ walk "nixos.fleet" hostOptions.fleet
    ++ walk "health.<name>" (hostOptions.fleet.health.type.getSubOptions [ ])
    ++ walk "nixos.system.onlineActivationScripts" hostOptions.system.onlineActivationScripts;

  ofSharedSecrets = walk "sharedSecrets.<name>" (
    (lib.findFirst (option: option.path == ".sharedSecrets") null ofFleet).value.type.getSubOptions [ ]
  );

  flakeOptions =
    (flake-parts.lib.evalFlakeModule
      {
        inputs = {
          inherit nixpkgs flake-parts fleet;
          self.outPath = "/user";
        };
      }
      {
        systems = [ ];
        imports = [ fleet.flakeModules.default ];
      }
    ).options;
  ofFlake = walk "fleetConfigurations" flakeOptions.fleetConfigurations ++ walk "flake.fleetModules" (flakeOptions.flake.type.getSubOptions [ ]).fleetModules;

  all = ofFleet ++ ofHost ++ ofChecks ++ ofFlake ++ ofNixos ++ ofSharedSecrets;

  without = wanted: map (option: option.path) (lib.filter (option: !wanted option.value) all);

  literal = value: (builtins.tryEval (builtins.deepSeq value null)).success;

  # The type shows what such an option can be.
  needsNoExample =
    option:
    option.readOnly or false
    || option.internal or false
    || lib.hasPrefix "Alias of " option.description
    || lib.elem option.type.name [
      "bool"
      "enum"
    ];
in
{
  testEveryFunctionIsInTheReference = {
    expr = lib.filter (
      name: !lib.hasInfix "\n## fleetLib.${name}\n" (builtins.readFile ../../../docs/reference/options.md)
    ) (lib.attrNames fleetLib.public);
    expected = [ ];
  };

  testAllOptionsAreSeen = {
    expr = lib.subtractLists (map (option: option.path) all) [
      ".hosts"
      ".nixpkgs.buildUsing"
      "hosts.<name>.deploy.address"
      "hosts.<name>.network.internalIps"
      "checks.<name>.assertion"
      "fleetConfigurations"
      "flake.fleetModules"
      "hosts.<name>.deploy.guard.confirmTimeout"
      "health.<name>.command"
      "health.<name>.http"
      "nixos.fleet.guard.bootGuard.enable"
      "nixos.fleet.guard.watchdog.runtime"
      "nixos.secrets.<name>.owner"
      "nixos.secretTemplates.<name>.content"
      "sharedSecrets.<name>.expectedOwners"
    ];
    expected = [ ];
  };

  testEveryOptionHasADescription = {
    expr = without (option: lib.isString (option.description or null) && option.description != "");
    expected = [ ];
  };

  testEveryOptionHasAType = {
    expr = without (option: option.type.name or "unspecified" != "unspecified");
    expected = [ ];
  };

  testADefaultThatIsNoLiteralHasAText = {
    expr = without (option: option ? defaultText || !(option ? default) || literal option.default);
    expected = [ ];
  };

  testEveryOptionHasAnExampleWhereItsTypeDoesNotTell = {
    expr = without (option: option ? example || needsNoExample option);
    expected = [ ];
  };
}
