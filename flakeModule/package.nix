/**
  The program, fleet-helper: one static binary for the operator's machine and for hosts.

  A target's binary is cross-built by the operator's own Go, because the operator may have no builder for that system. So nothing of a
  cross toolchain is needed, and the package for the operator's own system differs only in its name.

  Type:   { pkgs, lib, target ? null } -> Derivation
  Inputs:
    pkgs    packages for the system that builds
    target  the system that the binary runs on, or null for the one that builds
*/
{
  pkgs,
  lib,
  target ? null,
}:
let
  version = lib.removeSuffix "\n" (builtins.readFile ../VERSION);

  # https://go.dev/doc/install/source#environment
  platforms = {
    aarch64-linux = {
      GOOS = "linux";
      GOARCH = "arm64";
    };
    armv6l-linux = {
      GOOS = "linux";
      GOARCH = "arm";
      GOARM = "6";
    };
    armv7l-linux = {
      GOOS = "linux";
      GOARCH = "arm";
      GOARM = "7";
    };
    riscv64-linux = {
      GOOS = "linux";
      GOARCH = "riscv64";
    };
    x86_64-linux = {
      GOOS = "linux";
      GOARCH = "amd64";
    };
  };

  platform = if target == null then { } else platforms.${target};

  builder = import ./go-builder.nix { inherit lib; } pkgs;

  build =
    if builder != null then
      builder
    else
      throw ''
        fleet needs Go 1.26 or newer, and this nixpkgs has none.
        Let fleet use its own nixpkgs: remove inputs.fleet.inputs.nixpkgs.follows from your flake.
      '';
in
build {
  # One name for all targets, so that they share what is fetched.
  pname = "fleet-helper";
  inherit version;

  src = import ./source.nix ../.;
  vendorHash = import ./vendor-hash.nix;
  subPackages = [ "cmd/fleet-helper" ];

  env = platform // {
    CGO_ENABLED = "0";
  };
  # buildGoModule adds -trimpath by itself.
  ldflags = [
    "-s"
    "-w"
    "-X main.version=${version}"
  ];

  # Some releases of buildGoModule put their own platform over what env says.
  preBuild = lib.concatStrings (
    lib.mapAttrsToList (name: value: ''
      export ${name}=${value}
    '') platform
  );
  # Go puts a binary for another platform one folder deeper.
  postBuild = lib.optionalString (target != null) ''
    if [ -d "$GOPATH/bin/${platform.GOOS}_${platform.GOARCH}" ]; then
      mv "$GOPATH/bin/${platform.GOOS}_${platform.GOARCH}"/* "$GOPATH/bin/"
      rmdir "$GOPATH/bin/${platform.GOOS}_${platform.GOARCH}"
    fi
  '';

  # The tests are not in src; `make check` runs them.
  doCheck = false;
  # The linker has stripped it, and the builder's tools do not know the target's format.
  dontStrip = true;
  dontPatchELF = true;

  meta = {
    description = "NixOS cluster deployment";
    mainProgram = "fleet-helper";
  };
}
