# Checks of a fleet and what the options refuse: all that is wrong is said at once, with the host, the option and the remedy.
{
  lib,
  mkFleet,
  mkUser,
  ...
}:
let
  x86 = "x86_64-linux";

  error = msg: module: {
    expr = (mkFleet module).plan;
    expectedError = {
      type = "ThrownError";
      inherit msg;
    };
  };

  host = extra: {
    hosts.a = {
      system = x86;
    }
    // extra;
  };

  broken = {
    checks.mine = {
      assertion = false;
      message = "the moon is full";
    };
    hosts.a.tags = [ "x" ];
    hosts.b = {
      system = x86;
      deploy.buildOn = "nobody";
    };
    hosts."-c".system = x86;
    hosts.d = {
      system = x86;
      deploy.address = "10.0.0.1";
    };
    hosts.e = {
      system = x86;
      deploy.address = "10.0.0.1";
    };
  };

  duplicates = {
    hosts.a = {
      system = x86;
      deploy.address = "10.0.0.1";
    };
    hosts.b = {
      system = x86;
      deploy.address = "10.0.0.1";
    };
  };
in
{
  # One run tells of all of them.
  testAllFailedChecksAreCounted = error "fleet \"default\": 5 checks failed" broken;
  testAllFailedChecksAreNamed1 = error "^ *- \\[mine\\]" broken;
  testAllFailedChecksAreNamed2 = error "hosts\\.a\\.system is not set" broken;
  testAllFailedChecksAreNamed3 = error "hosts\\.b\\.deploy\\.buildOn is \"nobody\", and the fleet has no host of that name" broken;
  testAllFailedChecksAreNamed4 = error "hosts\\.\"-c\": the name is no host name" broken;
  testAllFailedChecksAreNamed5 = error "hosts\\.d and hosts\\.e are deployed to the same machine: deploy\\.address \"10\\.0\\.0\\.1\"" broken;

  testAMissingSystemNamesTheFix = error "Set it: hosts\\.a\\.system = \"x86_64-linux\";" { hosts.a = { }; };
  # Modules ask for tags long before a person sees a check.
  testAMissingSystemIsToldOfThoughTagsAreRead =
    error "Set it: hosts\\.a\\.system = \"x86_64-linux\";"
      (
        { config, fleetLib, ... }:
        {
          hosts.a = { };
          checks.tagged = {
            assertion = fleetLib.withTag "web" config.hosts == { };
            message = "tags were read";
          };
        }
      );
  testAMissingSystemCannotBeIgnored = error "This one cannot be ignored, though ignore is set" {
    hosts.a = { };
    checks."host-system/a".ignore = true;
  };

  testDuplicatesSayHowToIgnoreThem = error "To ignore it: fleetConfigurations\\.default\\.checks\\.\"duplicate-address/a\\+b\"\\.ignore = true;" duplicates;
  testDuplicatesCanBeIgnored = {
    expr = lib.attrNames (mkFleet {
      imports = [ duplicates ];
      checks."duplicate-address/a+b".ignore = true;
    }).plan.hosts;
    expected = [
      "a"
      "b"
    ];
  };
  testAThirdDuplicateIsNews = error "hosts\\.a, hosts\\.b and hosts\\.c are deployed to the same machine" {
    imports = [ duplicates ];
    checks."duplicate-address/a+b".ignore = true;
    hosts.c = {
      system = x86;
      deploy.address = "10.0.0.1";
    };
  };
  testAnotherPortIsAnotherMachine = {
    expr = lib.attrNames (mkFleet {
      imports = [ duplicates ];
      hosts.b.deploy.port = 2222;
    }).plan.hosts;
    expected = [
      "a"
      "b"
    ];
  };
  testAnotherJumpHostIsAnotherMachine = {
    expr = lib.attrNames (mkFleet {
      imports = [ duplicates ];
      hosts.b.deploy.jumpHosts = [ "gate" ];
    }).plan.hosts;
    expected = [
      "a"
      "b"
    ];
  };
  testTheDefaultAddressCountsToo = error "hosts\\.a and hosts\\.b are deployed to the same machine: deploy\\.address \"a\"" {
    hosts.a.system = x86;
    hosts.b = {
      system = x86;
      deploy.address = "a";
    };
  };

  testAHostThatBuildsOnItselfSaysTarget = error "is \"a\", which is the host itself" (host {
    deploy.buildOn = "a";
  });
  testHostsThatBuildForEachOther = error "hosts\\.a and hosts\\.b build for each other in a circle" {
    hosts.a = {
      system = x86;
      deploy.buildOn = "b";
    };
    hosts.b = {
      system = x86;
      deploy.buildOn = "a";
    };
    hosts.c = {
      system = x86;
      deploy.buildOn = "a";
    };
  };
  testARelayIsAHost = error "hosts\\.a\\.deploy\\.relay is \"gate\", and the fleet has no host of that name" (host {
    deploy.relay = "gate";
  });
  testARelayIsAnotherHost = error "hosts\\.a\\.deploy\\.relay is \"a\", which is the host itself" (host {
    deploy.relay = "a";
  });
  testARelayHasNoRelay = error "hosts\\.a\\.deploy\\.relay is \"b\", which has a relay itself: hosts\\.b\\.deploy\\.relay is \"c\"" {
    hosts.a = {
      system = x86;
      deploy.relay = "b";
    };
    hosts.b = {
      system = x86;
      deploy.relay = "c";
    };
    hosts.c.system = x86;
  };
  testARelayIsNotThisMachine = error "hosts\\.a\\.deploy\\.relay is \"b\", the machine that deploys" {
    hosts.a = {
      system = x86;
      deploy.relay = "b";
    };
    hosts.b = {
      system = x86;
      deploy.address = "local";
    };
  };
  testTheFaultOfARelayNamesTheFix = error "Name another host that is sent its paths directly, or set hosts\\.a\\.deploy\\.relay to null" (host {
    deploy.relay = "gate";
  });

  testReservedNames = error "hosts\\.target: the name has another meaning for fleet" {
    hosts.target.system = x86;
  };
  testLocalHasNoPort = error "deploy\\.address is \"local\", the machine that deploys, which is not reached by SSH" (host {
    deploy = {
      address = "local";
      port = 22;
    };
  });
  testLocalAloneIsFine = {
    expr = (mkFleet (host { deploy.address = "local"; })).plan.hosts.a.deploy.address;
    expected = "local";
  };

  testUnknownSystem = error "hosts\\.a\\.system.*(is not of type|not one of)" {
    hosts.a.system = "x86_64-windows";
  };
  testUnknownTransport = error "hosts\\.a\\.deploy\\.transport.*one of \"native\", \"openssh\"" (host {
    deploy.transport = "telnet";
  });
  testUnknownElevation = error "hosts\\.a\\.deploy\\.elevation.*one of" (host {
    deploy.elevation = "please";
  });
  testAnAddressIsNoOption = error "hosts\\.a\\.deploy\\.address.*is not of type .host name or IP address" (host {
    deploy.address = "-oProxyCommand=x";
  });
  testAnAddressHasNoUser = error "hosts\\.a\\.deploy\\.address.*without user, port or brackets" (host {
    deploy.address = "root@a";
  });
  testAPortIsNotZero = error "hosts\\.a\\.deploy\\.port.*port, from 1 to 65535" (host { deploy.port = 0; });
  testAUserIsNoOption = error "hosts\\.a\\.deploy\\.user.*user name" (host { deploy.user = "-l"; });
  testAJumpHostIsNoOption = error "hosts\\.a\\.deploy\\.jumpHosts.*\\[user@\\]host" (host {
    deploy.jumpHosts = [ "-oProxyCommand=x" ];
  });
  testAHostKeyIsAKey = error "hosts\\.a\\.deploy\\.hostKeys.*SSH public key" (host {
    deploy.hostKeys = [ "SHA256:abc" ];
  });
  testATagIsNoExpression = error "hosts\\.a\\.tags.*tag \\(letters" (host { tags = [ "a & b" ]; });
  testAnIpIsAnIp = error "hosts\\.a\\.network\\.internalIps.*IP address" (host {
    network.internalIps = [ "example.org" ];
  });
  testAMisspelledOption = error "option .*hosts\\.a\\.deploy\\.adress.* does not exist" (host { deploy.adress = "x"; });
  # Plans do not look at overlays, records do.
  testAnOverlayIsAFunction = {
    expr =
      (mkFleet {
        nixpkgs.overlays = [ { } ];
        hosts.a.system = x86;
      }).hosts.a.record;
    expectedError = {
      type = "ThrownError";
      msg = "overlay, a function final: prev:";
    };
  };

  testANameOfAFleetIsChecked = {
    expr = (mkUser { fleetConfigurations."a b" = { }; }).fleetConfigurations."a b".plan;
    expectedError = {
      type = "ThrownError";
      msg = "the name of a fleet may have letters, digits, - and _ only";
    };
  };

  testAMissingInternalIpNamesTheOption = {
    expr =
      (mkFleet {
        nixos = { fleetLib, host, ... }: { note.ip = fleetLib.internalIp host; };
        hosts.a.system = x86;
      }).hosts.a.nixos.config.note.ip;
    expectedError = {
      type = "ThrownError";
      msg = "Set it: hosts\\.a\\.network\\.internalIps = ";
    };
  };
}
