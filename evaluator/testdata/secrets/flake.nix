# A flake whose hosts declare secrets: what the flake module of the product renders, in small. What the state has is what lies in ./made.
{
  outputs = { self }:
    let
      system = "x86_64-linux";
      build = name: script: derivation {
        inherit name system;
        builder = "/bin/sh";
        args = [ "-c" script ];
        PATH = "/bin:/usr/bin";
        text = builtins.readFile ./text;
      };
      toplevel = name: let drv = build name "echo ${name} > $out"; in {
        drvPath = builtins.unsafeDiscardStringContext drv.drvPath;
        toplevel = builtins.unsafeDiscardStringContext drv.outPath;
        specialisations = [ ];
      };
      secret = {
        owners = [ ];
        generator = {
          kind = "script";
          on = null;
          sandbox = "strict";
          data = { size = 32; };
          seed = null;
          dependencies = { };
          ask = null;
        };
        parts = null;
        regenerateOnOwnerAdded = false;
        regenerateOnOwnerRemoved = false;
        onGeneratorChange = "regenerate";
        onDependencyChange = "regenerate";
      };
      made = id: builtins.pathExists (./made + "/${builtins.replaceStrings [ "/" ] [ "-" ] id}");
      specs = ids: {
        secrets = builtins.listToAttrs (map (id: { name = baseNameOf id; value = secret; }) ids);
        missing = builtins.filter (id: !made id) ids;
      };
      records = {
        plain.system = toplevel "plain";
        ready = { specs = specs [ ]; system = toplevel "ready"; };
        lacking = { specs = specs [ "host/lacking/db" "host/lacking/key" ]; system = builtins.trace "the system of lacking" (toplevel "lacking"); };
        reader = {
          specs = specs [ ];
          system =
            if made "host/peer/wireguard" then toplevel "reader"
            else throw "no public part\nfleet-missing-public: host/peer/wireguard public\nmake it: secrets sync";
        };
        peer = { specs = specs [ "host/peer/wireguard" ]; system = toplevel "peer"; };
        failing = { specs = specs [ ]; system = throw "the system is bad"; };
        undeclared = { specs = throw "the specs are bad"; system = builtins.trace "the system of undeclared" (toplevel "undeclared"); };
      };
      generator = name: script: let drv = build "generate-${name}" script; in {
        drvPath = builtins.unsafeDiscardStringContext drv.drvPath;
        program = builtins.unsafeDiscardStringContext drv.outPath + "/bin/generate";
      };
      works = name: generator name ''mkdir -p $out/bin; printf '#!/bin/sh\necho ${name}\n' > $out/bin/generate; chmod +x $out/bin/generate'';
    in
    {
      fleetConfigurations.default = {
        plan = {
          formatVersion = 1;
          fleet = "default";
          helpers = { };
          sharedSecrets.ca = secret // { owners = [ "lacking" "ready" ]; };
          hosts = builtins.mapAttrs
            (name: _: {
              inherit system;
              tags = [ ];
              deploy = {
                address = name;
                port = null;
                user = null;
                jumpHosts = null;
                hostKeys = [ ];
                transport = "native";
                elevation = "auto";
                buildOn = "operator";
                substituteOnDestination = false;
                specialisation = null;
              };
              network = { internalIps = [ ]; externalIps = [ ]; };
              record = [ "fleetConfigurations" "default" "hosts" name "record" ];
            })
            records;
          warnings = [ ];
        };
        generators.${system}.shared = {
          ca = works "ca";
          "ca.pem" = works "ca-pem";
          bad = throw "the generator is bad";
          unbuilt = generator "unbuilt" "echo no luck; exit 3";
          empty = generator "empty" "mkdir $out";
          odd = { drvPath = "/etc/passwd"; program = "/bin/sh"; };
        };
        generators.riscv64-linux.shared.ca = throw "another system's";
        hosts = builtins.mapAttrs (name: record: { inherit record; generators.${system}.db = works name; }) records;
      };
    };
}
