# Expressions over `lib` whose values must be the same with the stand-in and with nixpkgs' lib. The values are in lib.golden.json.
{ lib }:
with lib;
let
  drv = { type = "derivation"; name = "foo-1.2"; pname = "foo"; version = "1.2"; outPath = "/nix/store/x-foo"; meta.mainProgram = "bar"; };
in
{
  trivial = [ (pipe 1 [ (x: x + 1) toString ]) (max 1 2) (min 1 2) (mod 7 3) (boolToString true) (mapNullable toString null) (flip (a: b: a - b) 1 5)
    (isFunction { __functor = _: x: x; }) (attrNames (functionArgs ({ a, b ? 1 }: a))) (functionArgs (setFunctionArgs (x: x) { q = true; })) (versionOlder "1.2" "1.10") (versionAtLeast "1.2" "1.10") (throwIf false "x" 5) (throwIfNot true "x" 5) (warnIf false "x" 5) (showWarnings [ ] 7) ];
  fixedPoints = [ (fix (self: { a = 1; b = self.a + 1; }))
    (let x = makeExtensible (self: { a = 1; b = self.a; }); in (x.extend (final: prev: { a = prev.a + 5; })).b)
    (fix (extends (composeManyExtensions [ (f: p: { a = p.a ++ [ 2 ]; }) (f: p: { a = p.a ++ [ 3 ]; c = f.a; }) ]) (_: { a = [ 1 ]; }))) ];
  lists = [ (optional true 1) (optionals false [ 1 ]) (toList 1) (toList [ 1 ]) (foldr (a: b: "${a}${b}") "z" [ "a" "b" ]) 
    (imap0 (i: x: [ i x ]) [ "a" "b" ]) (imap1 (i: x: [ i x ]) [ "a" ]) (flatten [ 1 [ 2 [ 3 ] ] ]) (remove 1 [ 1 2 1 ]) (count (x: x > 1) [ 1 2 3 ])
    (findFirst (x: x > 1) 0 [ 1 2 3 ]) (findFirst (x: x > 9) 0 [ 1 ]) (range 1 4) (range 2 1)
    (partition (x: x > 1) [ 1 2 3 ]) (groupBy (x: if x > 1 then "big" else "small") [ 1 2 3 ]) (zipListsWith (a: b: a + b) [ 1 2 ] [ 3 4 5 ])
    (reverseList [ 1 2 3 ]) (sort (a: b: a < b) [ 3 1 2 ]) (sortOn stringLength [ "aaa" "b" "cc" ]) (take 2 [ 1 2 3 ]) (drop 2 [ 1 2 3 ]) 
    (take 5 [ 1 ]) (drop 5 [ 1 ]) (sublist 1 1 [ 1 2 3 ]) (last [ 1 2 ]) (init [ 1 2 ]) (unique [ 3 1 3 2 1 ]) (unique (map (x: toString (mod x 7)) (range 1 50))) (allUnique [ 1 1 ])
    (intersectLists [ 1 2 3 ] [ 6 3 2 ]) (subtractLists [ 3 2 ] [ 1 2 3 4 ]) (toposort (a: b: a < b) [ 3 2 1 ]).result
    
    (concatMap (x: [ x x ]) [ 1 2 ]) (forEach [ 1 2 ] (x: x + 1)) ];
  attrsets = [ (attrByPath [ "a" "b" ] 6 { a.b = 3; }) (attrByPath [ "z" "b" ] 6 { }) (hasAttrByPath [ "a" "b" ] { a.b = 3; }) (getAttrFromPath [ "a" "b" ] { a.b = 3; })
    (setAttrByPath [ "a" "b" ] 3) (getAttrs [ "a" ] { a = 1; b = 2; }) (filterAttrs (n: v: n == "a") { a = 1; b = 2; })
    (filterAttrsRecursive (n: v: v != null) { a = null; b = { c = null; d = 1; }; })
    (collect isList { a.b = [ 1 ]; c = [ 2 ]; })
    (nameValuePair "a" 1) (mapAttrs' (n: v: nameValuePair "x${n}" v) { a = 1; }) (mapAttrsToList (n: v: "${n}${v}") { a = "1"; b = "2"; }) (attrsToList { a = 1; })
    (concatMapAttrs (n: v: { ${n} = v; "${n}2" = v; }) { a = 1; }) (mapAttrsRecursive (p: v: concatStringsSep "-" (p ++ [ v ])) { a.b = "x"; })
    (mapAttrsRecursiveCond (as: !(as ? stop)) (p: v: p) { a.b = 1; c.stop = 1; }) (genAttrs [ "a" "b" ] (n: "x${n}")) (isDerivation drv) (optionalAttrs true { a = 1; })
    (zipAttrsWith (n: vs: vs) [ { a = 1; } { a = 2; b = 3; } ]) (zipAttrs [ { a = 1; } { a = 2; } ]) 
    (recursiveUpdate { a.b = 1; a.c = 2; } { a.b = 3; d = 4; }) (recursiveUpdateUntil (p: l: r: p == [ "a" ]) { a.b = 1; } { a.c = 2; }) 
    (showAttrPath [ "a" "b c" ]) (mergeAttrsList [ { a = 1; } { a = 2; b = 1; } ]) (getBin drv).name (getExe drv) (getExe' drv "q")
    (catAttrs "a" [ { a = 1; } { b = 2; } ]) (intersectAttrs { a = 1; } { a = 2; b = 3; }) 
    ];
  strings = [ (concatStrings [ "a" "b" ]) (concatMapStrings toUpper [ "a" ])
    (concatMapStringsSep "-" toUpper [ "a" "b" ]) (concatLines [ "a" "b" ]) (optionalString false "x") (makeBinPath [ "/a" "/b" ])
    (hasPrefix "a" "ab") (hasSuffix "b" "ab") (hasInfix "b." "ab.c") (hasInfix "b." "abc") (removePrefix "a" "ab") (removeSuffix "b" "ab") (stringToCharacters "abc")
    (escape [ "(" ] "a(") (escapeShellArg "it's") (escapeShellArg "plain-1.0") (escapeShellArg "") (escapeShellArgs [ "a b" "c" ]) (strings.escapeNixString "a\"\${b}\n") (strings.escapeNixIdentifier "a-b") (strings.escapeNixIdentifier "1a")
    (escapeRegex "[a].b") (toLower "AbC") (toUpper "aBc") (splitString "." "a.b..c") (splitString "ab" "xabyab") (trim "  a b \n") (trim "  ") 
    (toInt "42") (toInt " -7 ") (toIntBase10 "007") (getName drv) (getVersion drv) (getName "a-b-1.0") (versions.majorMinor "1.2.3") (isStorePath "/nix/store/x-foo") (isStringLike 1)
    (isStringLike drv) (strings.isConvertibleWithToString [ 1 "a" ]) (strings.sanitizeDerivationName "../a b@c") (strings.sanitizeDerivationName "") (strings.hasPrefix "a" "ab") 
    (toShellVar "a" "b c") (concatMapAttrsStringSep ";" (n: v: n + v) { a = "1"; b = "2"; }) (match "a(.)" "ab") ];
  generators = [ (generators.toJSON { } { a = 1; }) (generators.mkValueStringDefault { } null) ];
  systems = let e = systems.elaborate "aarch64-linux"; in [ e.system e.isLinux e.isAarch64 e.isx86_64 e.go.GOARCH (systems.elaborate "x86_64-linux").go.GOARCH (elem "riscv64-linux" systems.flakeExposed) (systems.equals e e) ];
  runTests = runTests { testA = { expr = 1; expected = 2; }; testB = { expr = 1; expected = 1; }; };
  sources = let s = cleanSourceWith { src = ./sources; name = "s"; filter = path: type: type == "directory" || hasSuffix ".go" path; }; in attrNames (builtins.readDir s);
}
