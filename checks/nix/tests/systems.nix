# The NixOS systems of hosts: what they are built with, what their modules get, and who is evaluated for whom.
{
  lib,
  mkFleet,
  mkUser,
  ...
}:
let
  x86 = "x86_64-linux";

  # The note that a host's modules wrote, which is what a test asks them for.
  notes = fleet: lib.mapAttrs (_: host: host.nixos.config.note) fleet.hosts;

  # Evaluating any host but one is an error.
  onlyMayBeEvaluated =
    wanted:
    { host, ... }:
    if host.name == wanted then
      { }
    else
      throw "host ${host.name} was evaluated for ${wanted}";

  twoHosts = extra: {
    imports = [ extra ];
    hosts.a.system = x86;
    hosts.b.system = x86;
  };

  # A fleet module with arguments, as users write those that can be imported twice.
  labelled =
    {
      label,
      hosts,
    }:
    {
      hosts = lib.genAttrs hosts (name: {
        tags = [ label ];
        nixos.note.${label} = "${label} on ${name}";
      });
    };
in
{
  testFleetAndHostModulesMerge = {
    expr = notes (mkFleet {
      nixos.note.everywhere = "yes";
      hosts.a = {
        system = x86;
        nixos.note.here = "a";
      };
      hosts.b.system = x86;
    });
    expected = {
      a = {
        everywhere = "yes";
        here = "a";
      };
      b.everywhere = "yes";
    };
  };

  testHostNameIsTheNameOfTheEntry = {
    expr = (mkFleet { hosts.a.system = x86; }).hosts.a.nixos.config.networking.hostName;
    expected = "a";
  };

  # Its port is open where somebody takes from it, and nowhere else.
  testARelaysFirewallLetsTheOthersIn = {
    expr = lib.mapAttrs (_: host: host.nixos.config.networking.firewall.allowedTCPPorts) (mkFleet {
      hosts.gate = {
        system = x86;
        deploy.relayPort = 7272;
      };
      hosts.far = {
        system = x86;
        deploy.relay = "gate";
      };
      hosts.near.system = x86;
    }).hosts;
    expected = {
      gate = [ 7272 ];
      far = [ ];
      near = [ ];
    };
  };

  testAUserCanNameTheHostOtherwise = {
    expr =
      (mkFleet {
        hosts.a = {
          system = x86;
          nixos.networking.hostName = "other";
        };
      }).hosts.a.nixos.config.networking.hostName;
    expected = "other";
  };

  testTheNameBeatsAnImagesDefault = {
    expr =
      (mkFleet {
        hosts.a = {
          system = x86;
          nixos.networking.hostName = lib.mkDefault "";
        };
      }).hosts.a.nixos.config.networking.hostName;
    expected = "a";
  };

  testHostModulesGetTheirArguments = {
    expr = notes (mkFleet {
      hosts.a = {
        system = x86;
        network.internalIps = [ "10.0.0.1/24" ];
        nixos =
          {
            fleetLib,
            host,
            hosts,
            inputs,
            inputs',
            self,
            self',
            ...
          }:
          {
            note = {
              host = host.name;
              hosts = toString (lib.attrNames hosts);
              ip = fleetLib.internalIp hosts.a;
              inputs = toString (inputs ? nixpkgs);
              "inputs'" = inputs'.fleet.packages.fleet-helper.name or "none";
              self = self.outPath;
              "self'" = toString (self'.packages ? fleet);
            };
          };
      };
    });
    expected.a = {
      host = "a";
      hosts = "a";
      ip = "10.0.0.1";
      inputs = "1";
      "inputs'" = "fleet-helper-0.1.0";
      self = "/user";
      "self'" = "1";
    };
  };

  testArgumentsCanDecideImports = {
    expr = notes (mkFleet {
      nixos =
        { host, inputs, ... }:
        {
          imports = lib.optional (host.tags == [ "all" "system/${x86}" ] && inputs ? fleet) {
            note.imported = "yes";
          };
        };
      hosts.a.system = x86;
    });
    expected.a.imported = "yes";
  };

  testOneHostReadsAnothersPublicValues = {
    expr = notes (mkFleet (twoHosts {
      nixos =
        { host, nixosHosts, ... }:
        {
          note.mine = "key of ${host.name}";
          note.theirs = lib.concatMapStringsSep ", " (name: nixosHosts.${name}.note.mine) (
            lib.attrNames nixosHosts
          );
        };
    }));
    expected = {
      a = {
        mine = "key of a";
        theirs = "key of a, key of b";
      };
      b = {
        mine = "key of b";
        theirs = "key of a, key of b";
      };
    };
  };

  testReadingOnePeerEvaluatesThatPeerAlone = {
    expr =
      (mkFleet (
        twoHosts {
          hosts.a.nixos = { nixosHosts, ... }: { note.peer = nixosHosts.b.networking.hostName; };
          hosts.c = {
            system = x86;
            nixos = throw "c was evaluated";
          };
        }
      )).hosts.a.nixos.config.note.peer;
    expected = "b";
  };

  testARecordEvaluatesNoOtherHost = {
    expr =
      (mkFleet (twoHosts {
        nixos = onlyMayBeEvaluated "a";
      })).hosts.a.record.system.specialisations;
    expected = [ ];
  };

  testAMeshOfFiftyEvaluatesOneHostARecord = {
    expr =
      let
        fleet = mkFleet (
          { fleetLib, ... }:
          {
            hosts = lib.listToAttrs (
              lib.genList (
                i:
                lib.nameValuePair "h${toString i}" {
                  system = x86;
                  deploy.address = "10.0.0.${toString i}";
                  network.internalIps = [ "10.0.0.${toString i}/24" ];
                }
              ) 50
            );
            nixos.imports = [
              (onlyMayBeEvaluated "h7")
              (
                { host, hosts, ... }:
                {
                  note = lib.mapAttrs (
                    _: peer: "${fleetLib.internalIp peer} ${peer.deploy.address}"
                  ) (fleetLib.others host.name hosts);
                }
              )
            ];
          }
        );
      in
      builtins.seq fleet.hosts.h7.record.system.drvPath (
        lib.length (lib.attrNames fleet.hosts.h7.nixos.config.note)
      );
    expected = 49;
  };

  testARecordIsPlainDataWithoutContext = {
    expr =
      let
        inherit (mkFleet { hosts.a.system = x86; }) hosts;
        record = builtins.fromJSON (builtins.toJSON hosts.a.record);
        inherit (hosts.a.nixos.config.system.build) toplevel;
      in
      {
        fields = lib.attrNames record.system;
        same = record.system.toplevel == toplevel.outPath && record.system.drvPath == toplevel.drvPath;
        context = builtins.hasContext (builtins.toJSON hosts.a.record);
      };
    expected = {
      fields = [
        "drvPath"
        "specialisations"
        "toplevel"
      ];
      same = true;
      context = false;
    };
  };

  testARecordNamesItsSpecialisations = {
    expr =
      (mkFleet {
        hosts.a = {
          system = x86;
          nixos.specialisation = {
            maintenance = { };
            debug = { };
          };
        };
      }).hosts.a.record.system.specialisations;
    expected = [
      "debug"
      "maintenance"
    ];
  };

  testAModuleWithArgumentsCanBeImportedTwice = {
    expr =
      let
        fleet = mkFleet {
          imports = [
            (labelled {
              label = "red";
              hosts = [
                "a"
                "b"
              ];
            })
            (labelled {
              label = "blue";
              hosts = [ "b" ];
            })
          ];
          hosts.a.system = x86;
          hosts.b.system = x86;
        };
      in
      {
        tags = lib.mapAttrs (_: host: host.tags) fleet.plan.hosts;
        notes = notes fleet;
      };
    expected = {
      tags = {
        a = [
          "all"
          "red"
          "system/x86_64-linux"
        ];
        b = [
          "all"
          "blue"
          "red"
          "system/x86_64-linux"
        ];
      };
      notes = {
        a.red = "red on a";
        b = {
          red = "red on b";
          blue = "blue on b";
        };
      };
    };
  };

  testHostDefaultsReachEveryEntry = {
    expr = lib.mapAttrs (_: host: host.deploy.user) (mkFleet {
      hostDefaults = { lib, ... }: { deploy.user = lib.mkDefault "admin"; };
      hosts.a.system = x86;
      hosts.b = {
        system = x86;
        deploy.user = "root";
      };
    }).plan.hosts;
    expected = {
      a = "admin";
      b = "root";
    };
  };

  testHostDefaultsCanDeclareOptions = {
    expr =
      (mkFleet {
        hostDefaults.options.rack = lib.mkOption { type = lib.types.int; };
        nixos = { host, ... }: { note.rack = toString host.rack; };
        hosts.a = {
          system = x86;
          rack = 7;
        };
      }).hosts.a.nixos.config.note.rack;
    expected = "7";
  };

  testAHostCanBeAFile = {
    expr =
      (mkFleet {
        hosts.a = ../fixtures/host.nix;
      }).plan.hosts.a.tags;
    expected = [
      "all"
      "from-a-file"
      "system/x86_64-linux"
    ];
  };

  testInputsOfASystemInFleetModules = {
    expr =
      (mkFleet (
        { inputs', self', ... }:
        {
          warnings = [
            (inputs' "aarch64-linux").fleet.packages.fleet-helper.system
            (toString (lib.attrNames (self' x86).apps))
          ];
        }
      )).plan.warnings;
    expected = [
      "aarch64-linux"
      "deploy fleet secrets"
    ];
  };

  testANonFlakeInputNamesTheRemedy = {
    expr =
      (mkUser {
        inputs.files.outPath = "/files";
        fleetConfigurations.default.hosts.a = {
          system = x86;
          nixos = { inputs', ... }: { note.a = inputs'.files.packages.x; };
        };
      }).fleetConfigurations.default.hosts.a.nixos.config.note.a;
    expectedError = {
      type = "ThrownError";
      msg = "inputs'\\.files was asked for, but the input files is not a flake";
    };
  };

  testInputsWithoutASystemInFleetModulesNamesTheRemedy = {
    expr = (mkFleet ({ inputs', ... }: { warnings = [ inputs'.fleet.packages.fleet.name ]; })).plan;
    expectedError = {
      type = "ThrownError";
      msg = "Write \\(inputs' \"x86_64-linux\"\\)\\.fleet";
    };
  };

  testPackagesInFleetModulesNamesTheRemedy = {
    expr = (mkFleet ({ pkgs, ... }: { warnings = [ pkgs.hello.name ]; })).plan;
    expectedError = {
      type = "ThrownError";
      msg = "nixos = \\{ pkgs, \\.\\.\\. \\}:";
    };
  };

  testTheSelfOfASystemInFleetModulesKnowsAllOutputs = {
    expr = (mkFleet ({ self', ... }: { warnings = [ self'.devShells ]; })).plan;
    expectedError = {
      type = "ThrownError";
      msg = "Write \\(self' \"x86_64-linux\"\\)\\.devShells";
    };
  };

  testAMistakeInAModuleNamesItsFile = {
    expr =
      (mkFleet {
        nixos = ../fixtures/mistake.nix;
        hosts.a.system = x86;
      }).hosts.a.record;
    expectedError = {
      type = "ThrownError";
      msg = "fixtures/mistake\\.nix'";
    };
  };

  testAMistakeInAnEntryNamesItsOption = {
    expr =
      (mkFleet {
        hosts.a = {
          system = x86;
          nixos.netwroking.hostName = "b";
        };
      }).hosts.a.record;
    expectedError = {
      type = "ThrownError";
      msg = "via option fleetConfigurations\\.default\\.hosts\\.a\\.nixos";
    };
  };

  testAModuleOfAllHostsCanBeDisabledForOne = {
    expr = notes (mkFleet {
      nixos = ../fixtures/note.nix;
      hosts.a.system = x86;
      hosts.b = {
        system = x86;
        nixos.disabledModules = [ ../fixtures/note.nix ];
      };
    });
    expected = {
      a.fixture = "yes";
      b = { };
    };
  };

  testAModuleThatIsGivenTwiceCountsOnce = {
    expr = notes (mkFleet {
      nixos = ../fixtures/option.nix;
      hosts.a = {
        system = x86;
        nixos = ../fixtures/option.nix;
      };
    });
    expected.a = { };
  };

  testAModuleOfAnotherClassIsRefused = {
    expr = (mkFleet { imports = [ { _class = "nixos"; } ]; }).plan;
    expectedError = {
      type = "ThrownError";
      msg = "(expects class|cannot be imported into).*\"?(fleet|nixos)";
    };
  };
}
