# Not a Go builder: it installs the program that `make build` made, and refuses to pass it off as another one.
{ lib, helper, stdenv, derivationOf }:
arg:
let
  attrs = if lib.isFunction arg then lib.fix arg else arg;
  inherit (attrs) pname version;
  name = "${pname}-${version}";
  program = attrs.meta.mainProgram or "fleet-helper";
  # Cross builds name their target in the environment, as go does.
  goarch = attrs.env.GOARCH or attrs.GOARCH or stdenv.hostPlatform.go.GOARCH;
  goos = attrs.env.GOOS or attrs.GOOS or stdenv.hostPlatform.go.GOOS;
  own = goarch == stdenv.hostPlatform.go.GOARCH && goos == stdenv.hostPlatform.go.GOOS;
in
derivationOf {
  inherit name pname version helper;
  # So that another source is another package, as with the real one.
  inherit (attrs) src;
  inherit (lib.recursiveUpdate { meta = { }; passthru = { }; } attrs) meta passthru;
  buildCommand = ''
    refuse() { echo "stand-in of buildGoModule, ${name}: $*" >&2; exit 1; }
    ${lib.optionalString (!own) "refuse \"it cannot build for ${goos}/${goarch}, only hand on what make build made for ${stdenv.hostPlatform.system}\""}
    [ -f "$helper/bin/fleet-helper" ] || refuse "its folder helper-missing holds no bin/fleet-helper: run make build, then use a copy of the stand-in whose helper-missing holds bin/fleet-helper and VERSION"
    have=$(cat "$helper/VERSION")
    [ "$have" = ${lib.escapeShellArg version} ] || refuse "the flake wants version ${version}, but the folder helper-missing holds $have: run make build, then put its bin/fleet-helper and VERSION there and lock the input nixpkgs again"
    mkdir -p "$out/bin"
    cp "$helper/bin/fleet-helper" "$out/bin/${program}"
    chmod 555 "$out/bin/${program}"
    ${attrs.postInstall or ""}
  '';
}
