# A flake with the outputs that the evaluator reads, without inputs: what the flake module of the product renders, in small.
{
  outputs = { self }:
    let
      system = "x86_64-linux";
      build = name: script: attrs: derivation ({
        inherit name system;
        builder = "/bin/sh";
        args = [ "-c" script ];
      } // attrs);
      record = drv: {
        drvPath = builtins.unsafeDiscardStringContext drv.drvPath;
        toplevel = builtins.unsafeDiscardStringContext drv.outPath;
        specialisations = [ ];
      };
      text = builtins.readFile ./text;
      shared = build "shared" "echo building shared; echo ${text} > $out" { };
      broken = build "broken" ''
        echo "first line"
        echo "$(printf '\033')[31mred line"
        i=0; while [ $i -lt 40 ]; do echo "line $i"; i=$((i+1)); done
        exit 3'' { };
      hosts = {
        web-1 = record (build "web-1" "echo ${shared} > $out" { });
        web-2 = record (build "web-2" "echo 2 ${shared} > $out" { });
        traced = builtins.trace "a note" (builtins.trace "warning: an old option" (record (build "traced" "echo > $out" { })));
        throwing = throw "the option `services.x' does not exist\nin two lines";
        missing = record self.nothing;
        recursive = let x = x.y; in x;
        # Loops in loops: no stack, no memory, no end.
        endless =
          let
            numbers = builtins.genList (n: n) 1000;
            loop = deep: if deep == 0 then 0 else builtins.foldl' (sum: _: sum + loop (deep - 1)) 0 numbers;
          in
          loop 9;
        greedy = builtins.deepSeq (builtins.genList (n: { a = n; b = toString n; c = [ n ]; }) 100000000) (record shared);
        failing = record (build "failing" "echo > $out" { inherit broken; });
        sleeping = record (build "sleeping-${builtins.substring 0 8 text}" "echo sleeping; sleep 1000" { PATH = "/bin:/usr/bin"; });
        odd = { drvPath = "/etc/passwd"; toplevel = "/"; specialisations = [ ]; };
      };
    in
    {
      packages.${system} = {
        fleet-helper-x86_64-linux = build "helper" "echo building helper; echo > $out" { };
        fleet-helper-broken = broken;
      };
      fleetConfigurations = {
        default = {
          plan = {
            formatVersion = 1;
            fleet = "default";
            helpers = {
              x86_64-linux.package = "fleet-helper-x86_64-linux";
              aarch64-linux.package = "fleet-helper-aarch64-linux";
              riscv64-linux.package = "fleet-helper-broken";
            };
            hosts = builtins.mapAttrs
              (name: _: {
                inherit system;
                tags = [ "all" ];
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
              hosts;
            warnings = [ "from the plan" ];
          };
          hosts = builtins.mapAttrs (_: host: { record.system = host; }) hosts;
        };
        staging.plan = throw "staging is broken";
        newer.plan = { formatVersion = 2; colour = "red"; };
      };
    };
}
