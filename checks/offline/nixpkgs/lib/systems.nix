# The facts about a platform that our modules and packages read.
{ lib }:
let
  goarch = { x86_64 = "amd64"; aarch64 = "arm64"; armv7l = "arm"; armv6l = "arm"; riscv64 = "riscv64"; i686 = "386"; };
in
rec {
  elaborate = args:
    let
      system = if builtins.isString args then args else args.system;
      parts = lib.splitString "-" system;
      cpu = builtins.head parts;
      kernel = lib.last parts;
    in
    rec {
      inherit system;
      config = "${cpu}-unknown-${kernel}" + lib.optionalString isLinux "-gnu";
      parsed = { cpu.name = cpu; kernel.name = kernel; };
      isLinux = kernel == "linux";
      isDarwin = kernel == "darwin";
      isx86_64 = cpu == "x86_64"; isAarch64 = cpu == "aarch64"; isAarch32 = lib.hasPrefix "arm" cpu;
      isRiscV64 = cpu == "riscv64";
      go = { GOOS = kernel; GOARCH = goarch.${cpu} or cpu; GOARM = if isAarch32 then builtins.substring 4 1 cpu else null; };
      # Text, so that a platform can stand where its name is wanted.
      __toString = _: system;
    };
  equals = a: b: a.system == b.system;
  flakeExposed = [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "armv6l-linux" "armv7l-linux" "i686-linux" "aarch64-darwin" "riscv64-linux" ];
}
