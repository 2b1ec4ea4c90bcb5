# The package set: the builders that fleet uses, and the few packages that the machine's own programs can stand for.
{ system ? builtins.currentSystem, overlays ? [ ], config ? { }, helper ? ./helper-missing, ... }@args:
let
  lib = import ./lib;
  inherit (lib) concatMapStringsSep escapeShellArg;

  # Files of the machine, for what a configuration only has to name: nothing is copied. What has no slash is a program.
  machine = {
    bash = "bash sh"; bubblewrap = "bwrap"; findutils = "find xargs"; gawk = "awk"; gnugrep = "grep"; gnused = "sed";
    opensc = "pkcs11-tool"; openssh = "ssh ssh-keygen"; softhsm = "softhsm2-util lib/softhsm/libsofthsm2.so"; whois = "mkpasswd";
    coreutils = "base64 basename cat chmod chown cp cut date dirname echo env expr false head id install ln ls mkdir mkfifo mktemp mv od printf"
      + " pwd readlink realpath rm rmdir seq sha256sum sleep sort stat stty tail tee test timeout touch tr true tty uname uniq wc";
    pkcs11-provider = "lib/ossl-modules/pkcs11.so=lib/${lib.head (lib.splitString "-" system)}-linux-gnu/ossl-modules/pkcs11.so";
  } // lib.genAttrs [ "age" "git" "go" "gopls" "jq" "mkpasswd" "openssl" "shellcheck" ] lib.id;
  fromMachine = final: name: files:
    let
      package = final.runCommandLocal name { meta.mainProgram = lib.head (lib.splitString " " files); } ''
        for each in ${files}; do
          case $each in */*) ;; *) each=bin/$each ;; esac
          mkdir -p "$(dirname "$out/''${each%%=*}")" && ln -s "/usr/''${each#*=}" "$out/''${each%%=*}"
        done
      '';
    in
    package // { bin = package; };

  base = final: lib.mapAttrs (fromMachine final) machine // rec {
    inherit lib system config;
    _type = "pkgs";
    pkgs = final;
    path = ./.;
    stdenv = rec {
      hostPlatform = lib.systems.elaborate system;
      buildPlatform = hostPlatform;
      inherit system mkDerivation;
      shell = "/bin/bash";
    };
    callPackage = lib.callPackageWith final;
    extend = overlay: appendOverlays [ overlay ];
    appendOverlays = more: import ./. (args // { overlays = overlays ++ more; });

    runtimeShell = "/bin/bash";
    hello = writeShellScriptBin "hello" "echo 'Hello, world!'";

    # Builders run the machine's own shell and tools, without a sandbox: this is Debian's default.
    runCommand = name: env: script: derivationOf (removeAttrs env [ "name" ] // { inherit name; buildCommand = script; });
    runCommandLocal = runCommand;
    mkDerivation = arg:
      let attrs = if lib.isFunction arg then lib.fix (final': arg final') else arg; in
      derivationOf (attrs // {
        name = attrs.name or "${attrs.pname}-${attrs.version}";
        buildCommand = attrs.buildCommand or "${lib.optionalString (attrs ? src) "cp -r ${attrs.src} source && chmod -R u+w source && cd source"}
          ${attrs.buildPhase or ""}\n${attrs.installPhase or "mkdir -p \"$out\""}";
      });
    derivationOf = { name, buildCommand, passthru ? { }, meta ? { }, ... }@attrs:
      let
        drv = derivation (removeAttrs attrs [ "passthru" "meta" "nativeBuildInputs" "buildInputs" "env" ] // attrs.env or { } // {
          inherit name;
          # No cache has what is made here: asking one only costs time.
          allowSubstitutes = false;
          preferLocalBuild = true;
          system = attrs.system or system;
          builder = "/bin/bash";
          args = [ "-c" "set -eu; export PATH=/usr/bin:/bin HOME=/homeless; eval \"$buildCommand\"" ];
        });
        add = d: d // passthru // {
          inherit meta passthru name;
          overrideAttrs = f: derivationOf (attrs // (if lib.isFunction (f attrs) then f attrs attrs else f attrs));
        } // lib.filterAttrs (n: _: n == "pname" || n == "version") attrs;
      in
      add drv;

    writeTextFile = { name, text, executable ? false, destination ? "", checkPhase ? "", meta ? { }, derivationArgs ? { }, ... }:
      derivationOf (derivationArgs // {
        inherit name text meta;
        passAsFile = [ "text" ];
        buildCommand = ''
          target="$out${destination}"
          mkdir -p "$(dirname "$target")"
          cp "$textPath" "$target"
          ${lib.optionalString executable "chmod +x \"$target\""}
          ${checkPhase}
        '';
      });
    writeText = name: text: writeTextFile { inherit name text; };
    writeScript = name: text: writeTextFile { inherit name text; executable = true; };
    writeShellScript = name: text: writeScript name "#!/bin/bash\n${text}\n";
    writeScriptBin = name: text: writeTextFile { inherit name text; executable = true; destination = "/bin/${name}"; meta.mainProgram = name; };
    writeShellScriptBin = name: text: writeScriptBin name "#!/bin/bash\n${text}\n";
    writeShellApplication = { name, text, runtimeInputs ? [ ], runtimeEnv ? { }, meta ? { }, ... }:
      writeTextFile {
        inherit name;
        executable = true;
        destination = "/bin/${name}";
        meta = { mainProgram = name; } // meta;
        text = ''
          #!/bin/bash
          set -o errexit -o nounset -o pipefail
          ${lib.optionalString (runtimeInputs != [ ]) "export PATH=${escapeShellArg (lib.makeBinPath runtimeInputs)}:$PATH"}
          ${lib.concatStrings (lib.mapAttrsToList (n: v: "export ${lib.toShellVar n v}\n") runtimeEnv)}
        '' + text + "\n";
        checkPhase = "bash -n \"$target\"";
      };

    buildEnv = { name, paths, pathsToLink ? [ "/" ], postBuild ? "", ... }@env: derivationOf (removeAttrs env [ "pathsToLink" "postBuild" "paths" ] // {
      inherit name;
      buildCommand = ''
        mkdir -p "$out"
        for each in ${toString paths}; do
          for sub in ${toString pathsToLink}; do
            [ -d "$each$sub" ] || continue
            (cd -P "$each$sub" && find . -type d -exec mkdir -p "$out$sub/{}" \;)
            (cd -P "$each$sub" && find . ! -type d -exec sh -c '[ -e "$1/$2" ] || ln -s "$PWD/$2" "$1/$2"' - "$out$sub" {} \;)
          done
        done
        ${postBuild}
      '';
    });
    symlinkJoin = buildEnv;
    linkFarm = name: entries: runCommand name { } ''
      mkdir -p "$out" && cd "$out"
      ${concatMapStringsSep "\n" (e: "mkdir -p \"$(dirname ${escapeShellArg e.name})\" && ln -s ${e.path} ${escapeShellArg e.name}")
        (if builtins.isList entries then entries else lib.mapAttrsToList (name: path: { inherit name path; }) entries)}
    '';
    mkShell = { packages ? [ ], shellHook ? "", name ? "nix-shell", ... }: derivationOf { inherit name shellHook; buildCommand = "echo ${toString packages} > \"$out\""; };

    formats.json = _: {
      type = with lib.types; let v = nullOr (oneOf [ bool int float str path (attrsOf v) (listOf v) ]) // { description = "JSON value"; }; in v;
      generate = name: value: writeText name (builtins.toJSON value);
    };
    # A formatter that only looks: the stand-in formats nothing.
    nixfmt = writeShellScriptBin "nixfmt" ''
      for file; do [ ! -f "$file" ] || nix-instantiate --parse "$file" >/dev/null || exit 1; done
      echo "stand-in of nixfmt: checked the syntax of $# files, formatted none" >&2
    '';
    nixfmt-tree = nixfmt;
    alejandra = nixfmt;

    buildGoModule = import ./pkgs/build-go-module.nix { inherit lib helper stdenv derivationOf; };
  };
in
lib.fix (lib.foldl' (lib.flip lib.extends) base overlays)
