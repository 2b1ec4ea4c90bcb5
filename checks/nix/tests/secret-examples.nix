# The example flakes with secrets, with the stand-in's NixOS and, where a checkout is given, with the real one. That they deploy is tested on hosts,
# in checks/cluster.
{
  lib,
  callFlake,
  flake-parts,
  fleetBeside,
  wholeNixpkgs,
  ...
}:
let
  # The stand-in has no GitLab: there, and only there, a stub of it takes part.
  withStub =
    nixpkgs:
    if nixpkgs ? isStandIn then
      nixpkgs
      // {
        lib = nixpkgs.lib // {
          nixosSystem =
            arguments:
            nixpkgs.lib.nixosSystem (
              arguments // { modules = arguments.modules ++ [ ../../cluster/testdata/stubs/gitlab.nix ]; }
            );
        };
      }
    else
      nixpkgs;

  example =
    nixpkgs: name:
    (callFlake (../../../examples + "/${name}") {
      inherit nixpkgs flake-parts;
      fleet = fleetBeside nixpkgs;
    }).fleetConfigurations.default;

  # What the test says of the secrets that every NixOS has; the real one's GitLab wants three more.
  published = [
    "gitlab-db"
    "gitlab-jws"
    "gitlab-otp"
    "gitlab-root"
    "gitlab-secret"
  ];

  gitlabTests =
    nixpkgs:
    let
      fleet = example (withStub nixpkgs) "gitlab";
      host = fleet.hosts.gitlab;
    in
    {
      DeclaresItsSecrets = {
        expr = lib.intersectLists published (lib.attrNames host.record.specs.secrets);
        expected = published;
      };

      NamesAllThatAreMissing = {
        expr = lib.all (name: lib.elem "host/gitlab/${name}" host.record.specs.missing) published;
        expected = true;
      };

      ItsUserOwnsThem = {
        expr = lib.unique (
          map (
            name:
            let
              secret = host.nixos.config.secrets.${name};
            in
            "${secret.owner}:${secret.group}"
          ) published
        );
        expected = [ "gitlab:gitlab" ];
      };

      ItsGeneratorsCanBeBuilt = {
        expr = lib.all (
          name: lib.hasSuffix ".drv" host.generators.x86_64-linux.${name}.drvPath
        ) published;
        expected = true;
      };
    };

  hsmTests =
    nixpkgs:
    let
      fleet = example nixpkgs "kubernetes-hsm";
      secrets = fleet.plan.sharedSecrets;
    in
    {
      TagsAmongOwnersExpand = {
        expr = lib.mapAttrs (_: secret: secret.owners) secrets;
        expected = {
          "admin.pem" = [ "controlplane-1" ];
          "apiserver.pem" = [
            "controlplane-1"
            "controlplane-2"
          ];
          "ca.pem" = [
            "controlplane-1"
            "controlplane-2"
            "worker-1"
          ];
        };
      };

      GeneratorsRunOnTheHostWithTheHsm = {
        expr = lib.unique (lib.mapAttrsToList (_: secret: secret.generator.on) secrets);
        expected = [ "hsm-1" ];
      };

      WhatACertificateSaysBelongsToItsSecret = {
        expr = lib.all (
          word: lib.hasInfix word (builtins.toJSON secrets."apiserver.pem".generator.data)
        ) [
          "CN"
          "DNS:kubernetes"
          "IP:10.77.0.12"
          "IP:10.77.0.13"
        ];
        expected = true;
      };

      TheRightOnesAreMadeAnewForANewOwner = {
        expr = lib.mapAttrs (_: secret: secret.regenerateOnOwnerAdded) secrets;
        expected = {
          "admin.pem" = false;
          "apiserver.pem" = true;
          "ca.pem" = false;
        };
      };

      TheirProgramsCanBeBuilt = {
        expr = lib.mapAttrs (
          name: _: lib.hasSuffix ".drv" fleet.generators.x86_64-linux.shared.${name}.drvPath
        ) secrets;
        expected = lib.mapAttrs (_: _: true) secrets;
      };

      TheHsmHasAPinOfItsOwn = {
        expr = lib.mapAttrs (_: host: lib.attrNames host.record.specs.secrets) fleet.hosts;
        expected = {
          hsm-1 = [ "hsm-pin" ];
          controlplane-1 = [ ];
          controlplane-2 = [ ];
          worker-1 = [ ];
        };
      };
    };

  named = prefix: lib.mapAttrs' (name: lib.nameValuePair "test${prefix}${name}");
in
lib.concatMapAttrs (
  name: nixpkgs:
  named "Gitlab${name}" (gitlabTests nixpkgs) // named "Hsm${name}" (hsmTests nixpkgs)
) wholeNixpkgs
