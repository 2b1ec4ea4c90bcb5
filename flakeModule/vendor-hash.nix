# The hash of what `go mod vendor` writes for the sources of the program. `checks/nix/vendor-hash --update` writes this file.
"sha256-3CBNFWc/+UAd9eRNB+Ym2Qj0RP/Y4qjcU/qiLMu45aY="
