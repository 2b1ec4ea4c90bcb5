# What identifies a generator that somebody wrote: its script, but not the packages in it.
{
  lib,
  canReadTheStore,
  nixpkgs,
  ...
}@context:
let
  inherit (import ../secret-generators.nix context)
    secrets
    seedOf
    seedWith
    spec
    store
    updated
    withTools
    x86
    ;
in
{
  # Seeds.
  testAnotherScriptIsAnotherSeed = {
    expr = seedOf "date" == seedOf "date +%s";
    expected = false;
  };

  testAnUpdateOfNixpkgsIsTheSameSeed = {
    expr = {
      same = seedWith nixpkgs (withTools "date") == seedWith updated (withTools "date");
      changed = seedWith nixpkgs (withTools "date") == seedWith nixpkgs (withTools "cat");
      pathsDiffer = nixpkgs.legacyPackages.${x86}.coreutils.outPath == updated.legacyPackages.${x86}.coreutils.outPath;
    };
    expected = {
      same = true;
      changed = false;
      pathsDiffer = false;
    };
  };

  testStorePathsAreMaskedWithHashAndName = {
    expr = secrets.masks.mask "/user" "a ${store "openssl-3.1"}/bin/x b ${store "other"} c";
    expected = "a <store>/bin/x b <store> c";
  };

  testWholeFlakesAreMasked = {
    expr = secrets.masks.mask (store "source") "cat ${store "source"}/no/such/file ${store "source"}";
    expected = "cat <flake /no/such/file> <flake >";
  };

  testGenerationDataIsMasked = {
    expr =
      (spec (
        { mkSecretGenerator, coreutils }:
        mkSecretGenerator {
          script = "true";
          generationData.tool = "${coreutils}/bin/date";
        }
      )).data.tool;
    expected = "<store>/bin/date";
  };

  testAScriptCanBeAFile = {
    expr = map seedOf [
      ../fixtures/note.nix
      (builtins.readFile ../fixtures/note.nix)
    ];
    expected = map (_: builtins.hashFile "sha256" ../fixtures/note.nix) [
      1
      2
    ];
  };
}
// lib.optionalAttrs canReadTheStore {
  # A file that is copied by itself has its contents in its path; what is below the flake's own path is told by its contents.
  testFilesOfTheFlakeAreToldByTheirContents = {
    expr =
      let
        flake =
          name:
          builtins.path {
            path = ../fixtures;
            name = "source";
            filter = path: _: baseNameOf path != name;
          };
        one = flake "mistake.nix";
        two = flake "option.nix";
        masked = dir: secrets.masks.mask dir "cat ${dir}/note.nix ${dir}/readme";
        copied = secrets.masks.mask "/user" "run ${../fixtures/note.nix}";
      in
      {
        differ = one == two;
        same = masked one == masked two;
        changed = secrets.masks.mask one "${one}/option.nix" == secrets.masks.mask one "${one}/note.nix";
        copied = lib.hasSuffix "-note.nix" copied && lib.hasPrefix "run ${builtins.storeDir}/" copied;
        context = builtins.hasContext (masked one) || builtins.hasContext copied;
      };
    expected = {
      differ = false;
      same = true;
      changed = false;
      copied = true;
      context = false;
    };
  };
}
