# The hash of what `go mod vendor` writes for the sources of the program. `checks/nix/vendor-hash --update` writes this file.
"sha256-rqECb7qmKLl6tsMS3xYI4HQSwpVU0b7QLM3cz40/G54="
