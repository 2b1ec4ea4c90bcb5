# The hash of what `go mod vendor` writes for the sources of the program. `checks/nix/vendor-hash --update` writes this file.
"sha256-nUCfcEXiy+GPJQBd/T+ZeNM376XlppX1i4CLGBJpHLw="
