/**
  The part of this repository that the program is built from: go.mod, go.sum and the Go folders without tests. A commit that changes
  nothing in here changes no package, and so no host.

  Type:   Path -> StorePath
  Inputs: the root of the repository
*/
root:
let
  prefix = toString root + "/";

  folders = [
    "closure"
    "cmd"
    "evaluator"
    "push"
    "secretsgen"
  ];

  files = [
    "go.mod"
    "go.sum"
  ];

  # Builtins only: what nixpkgs offers for this changes the path from release to release.
  keep =
    path: type:
    let
      relative = builtins.substring (builtins.stringLength prefix) (builtins.stringLength path) path;
      top = builtins.head (builtins.split "/" relative);
      # Packages that only tests import end in "test", as Go's own do (net/http/httptest).
      isTest =
        builtins.match ".*_test\\.go" relative != null
        || builtins.match ".*/(testdata|[a-z]+test)(/.*)?" relative != null;
    in
    (builtins.elem relative files || builtins.elem top folders) && !isTest;
in
builtins.path {
  path = root;
  name = "fleet-source";
  filter = keep;
}
