/**
  What builds Go programs with a Go that is new enough for go.mod, or null where the packages have none. A nixpkgs whose default is newer is
  as good as one that has Go 1.26 beside an older default.

  Type:   { lib } -> Packages -> null | Builder
*/
{ lib }:
pkgs:
if lib.versionAtLeast (pkgs.go.version or "1.26") "1.26" then
  pkgs.buildGoModule
else
  pkgs.buildGo126Module or null
