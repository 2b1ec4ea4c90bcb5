# The hash of what `go mod vendor` writes for the sources of the program. `checks/nix/vendor-hash --update` writes this file.
"sha256-+qAHwWZuVNQRpZdt2fk3kqkdM9+S8pEKwNI3kkiIEtk="
