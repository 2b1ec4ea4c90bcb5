# The hash of what `go mod vendor` writes for the sources of the program. `checks/nix/vendor-hash --update` writes this file.
"sha256-NATxbxh659S1nlld9zgyLPm0ZPK+ahcyqOzG2zJlc7c="
