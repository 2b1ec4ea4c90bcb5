# Functions over lists.
{ lib }:
let
  inherit (builtins) elem elemAt filter foldl' genList head isList length tail;
in
rec {
  inherit (builtins) all any concatLists concatMap;
  singleton = x: [ x ];
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: xs: if condition then xs else [ ];
  toList = x: if isList x then x else [ x ];
  forEach = xs: f: map f xs;
  foldr = op: nul: xs:
    let
      n = length xs;
      go = i: if i == n then nul else op (elemAt xs i) (go (i + 1));
    in
    go 0;
  fold = foldr;
  foldl = op: nul: xs:
    let go = i: if i < 0 then nul else op (go (i - 1)) (elemAt xs i); in go (length xs - 1);
  imap0 = f: xs: genList (i: f i (elemAt xs i)) (length xs);
  imap1 = f: xs: genList (i: f (i + 1) (elemAt xs i)) (length xs);
  ifilter0 = keep: xs: map (x: x.value) (filter (x: keep x.index x.value) (imap0 (index: value: { inherit index value; }) xs));
  flatten = x: if isList x then builtins.concatMap flatten x else [ x ];
  remove = x: filter (y: y != x);
  count = pred: foldl' (n: x: if pred x then n + 1 else n) 0;
  findFirstIndex = pred: default: xs:
    let
      n = length xs;
      go = i: if i == n then default else if pred (elemAt xs i) then i else go (i + 1);
    in
    go 0;
  findFirst = pred: default: xs:
    let i = findFirstIndex pred null xs; in if i == null then default else elemAt xs i;
  findSingle = pred: default: multiple: xs:
    let found = filter pred xs; in
    if found == [ ] then default else if length found == 1 then head found else multiple;
  range = first: last: if first > last then [ ] else genList (n: first + n) (last - first + 1);
  replicate = n: x: genList (_: x) n;
  partition = builtins.partition;
  groupBy = builtins.groupBy;
  groupBy' = op: nul: f: xs: lib.mapAttrs (_: foldl' op nul) (builtins.groupBy f xs);
  zipListsWith = f: a: b: genList (n: f (elemAt a n) (elemAt b n)) (lib.min (length a) (length b));
  zipLists = zipListsWith (fst: snd: { inherit fst snd; });
  reverseList = xs: let n = length xs; in genList (i: elemAt xs (n - i - 1)) n;
  sort = builtins.sort;
  sortOn = f: xs: map (p: elemAt p 1) (builtins.sort (a: b: head a < head b) (map (x: [ (f x) x ]) xs));
  naturalSort = builtins.sort (a: b: builtins.compareVersions a b < 0);
  compareLists = cmp: a: b:
    if a == [ ] then (if b == [ ] then 0 else -1)
    else if b == [ ] then 1
    else let c = cmp (head a) (head b); in if c == 0 then compareLists cmp (tail a) (tail b) else c;
  sublist = start: n: xs:
    let len = length xs; in
    genList (i: elemAt xs (i + start)) (if start >= len then 0 else lib.min n (len - start));
  take = n: sublist 0 n;
  takeEnd = n: xs: drop (lib.max 0 (length xs - n)) xs;
  drop = n: xs: sublist n (length xs) xs;
  dropEnd = n: xs: take (lib.max 0 (length xs - n)) xs;
  last = xs: if xs == [ ] then throw "lists.last: list must not be empty!" else elemAt xs (length xs - 1);
  init = xs: if xs == [ ] then throw "lists.init: list must not be empty!" else take (length xs - 1) xs;
  crossLists = f: foldl' (fs: args: builtins.concatMap (g: map g args) fs) [ f ];
  # Strings go through an attribute set, so that a thousand names do not cost a million comparisons.
  unique = xs:
    if length xs > 32 && builtins.all builtins.isString xs && builtins.all (x: !builtins.hasContext x) xs then
      let firsts = builtins.listToAttrs (imap0 (i: x: { name = x; value = i; }) xs); in
      ifilter0 (i: x: firsts.${x} == i) xs
    else foldl' (acc: x: if elem x acc then acc else acc ++ [ x ]) [ ] xs;
  uniqueStrings = xs: builtins.attrNames (builtins.groupBy lib.id xs);
  allUnique = xs: length (unique xs) == length xs;
  intersectLists = e: filter (x: elem x e);
  subtractLists = e: filter (x: !(elem x e));
  mutuallyExclusive = a: b: !(builtins.any (x: elem x a) b);
  hasPrefix = prefix: xs: take (length prefix) xs == prefix;
  removePrefix = prefix: xs:
    if hasPrefix prefix xs then drop (length prefix) xs
    else throw "lists.removePrefix: First argument is not a list prefix of the second argument";
  # `before a b` says that a must come first. Returns { result } or { cycle; loops }, as nixpkgs does.
  toposort = before: xs:
    let
      go = done: rest:
        let
          ready = filter (x: !(builtins.any (y: y != x && before y x) rest)) rest;
        in
        if rest == [ ] then { result = done; }
        else if ready == [ ] then { cycle = rest; loops = rest; }
        else go (done ++ [ (head ready) ]) (remove (head ready) rest);
    in
    go [ ] xs;
}
