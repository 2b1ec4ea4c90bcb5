/**
  The tests as text, for checks/nix/run: nix prints no test report of its own.

  Type:   { libDir, flakePartsDir, nixpkgsDir, pattern } -> { names, values, errors, one, golden, health, options }
  Inputs: as ./default.nix, and a regular expression that the names of the tests must match
  Output:
    names   the names of all tests, one a line
    values  a line for each test of a value: "ok NAME" or "FAIL NAME" with the two values
    errors  a line for each test of an error: "NAME" tab regular expression
    one     NAME -> the expression of that test, evaluated whole
    golden  what checks/golden/plan.json should be
    health  what checks/golden/health.json should be
    options what docs/reference/options.md should be
*/
{
  libDir,
  flakePartsDir,
  nixpkgsDir ? "",
  pattern ? ".*",
}:
let
  topics = import ./. {
    inherit libDir flakePartsDir;
    nixpkgsDir = if nixpkgsDir == "" then null else nixpkgsDir;
  };

  all = builtins.listToAttrs (
    builtins.concatMap (
      topic:
      map (test: {
        name = "${topic}.${test}";
        value = topics.${topic}.${test};
      }) (builtins.attrNames topics.${topic})
    ) (builtins.attrNames topics)
  );

  wanted = builtins.filter (name: builtins.match pattern name != null) (builtins.attrNames all);

  lines = builtins.concatStringsSep "";

  isText = value: builtins.isString value && builtins.match ".*\n.*" value != null;

  # Of long texts, the first lines that differ.
  difference =
    expected: got:
    let
      split = text: builtins.filter builtins.isString (builtins.split "\n" text);
      a = split expected;
      b = split got;
      line = list: n: if n < builtins.length list then builtins.elemAt list n else "(the end)";
      first = n: if line a n == line b n then first (n + 1) else n;
      n = first 0;
    in
    "  line ${toString (n + 1)} should be\n    ${line a n}\n  and is\n    ${line b n}\n";

  value =
    name:
    let
      test = all.${name};
      tried = builtins.tryEval (builtins.deepSeq test.expr test.expr);
    in
    if !tried.success then
      "FAIL ${name}: it threw an error\n"
    else if tried.value == test.expected then
      "ok ${name}\n"
    else if isText test.expected && isText tried.value then
      "FAIL ${name}\n" + difference test.expected tried.value
    else
      "FAIL ${name}\n  expected ${builtins.toJSON test.expected}\n  got      ${builtins.toJSON tried.value}\n";
in
{
  names = lines (map (name: "${name}\n") wanted);
  values = lines (map value (builtins.filter (name: all.${name} ? expected) wanted));
  errors = lines (
    map (name: "${name}\t${all.${name}.expectedError.msg}\n") (
      builtins.filter (name: all.${name} ? expectedError) wanted
    )
  );
  one = builtins.mapAttrs (_: test: builtins.deepSeq test.expr "evaluated\n") all;
  golden = import ./pretty.nix topics.plan.testGoldenFileIsWhatTheModuleRenders.expr;
  health = import ./pretty.nix topics.guard.testGoldenFileOfChecksIsWhatASystemHas.expr;
  options = topics.outputs.testTheReferenceOfOptionsIsTheOneInDocs.expr;
}
