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
  imap0 = f: xs: genList (i: f i (elemAt xs i)) (length xs);
  imap1 = f: xs: genList (i: f (i + 1) (elemAt xs i)) (length xs);
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
  range = first: last: if first > last then [ ] else genList (n: first + n) (last - first + 1);
  partition = builtins.partition;
  groupBy = builtins.groupBy;
  zipListsWith = f: a: b: genList (n: f (elemAt a n) (elemAt b n)) (lib.min (length a) (length b));
  reverseList = xs: let n = length xs; in genList (i: elemAt xs (n - i - 1)) n;
  sort = builtins.sort;
  sortOn = f: xs: map (p: elemAt p 1) (builtins.sort (a: b: head a < head b) (map (x: [ (f x) x ]) xs));
  sublist = start: n: xs:
    let len = length xs; in
    genList (i: elemAt xs (i + start)) (if start >= len then 0 else lib.min n (len - start));
  take = n: sublist 0 n;
  drop = n: xs: sublist n (length xs) xs;
  last = xs: if xs == [ ] then throw "lists.last: list must not be empty!" else elemAt xs (length xs - 1);
  init = xs: if xs == [ ] then throw "lists.init: list must not be empty!" else take (length xs - 1) xs;
  # Strings go through an attribute set, so that a thousand names do not cost a million comparisons.
  unique = xs:
    if length xs > 32 && builtins.all builtins.isString xs && builtins.all (x: !builtins.hasContext x) xs then
      let firsts = builtins.listToAttrs (imap0 (i: x: { name = x; value = i; }) xs); in
      map (p: p.x) (filter (p: firsts.${p.x} == p.i) (imap0 (i: x: { inherit i x; }) xs))
    else foldl' (acc: x: if elem x acc then acc else acc ++ [ x ]) [ ] xs;
  allUnique = xs: length (unique xs) == length xs;
  intersectLists = e: filter (x: elem x e);
  subtractLists = e: filter (x: !(elem x e));
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
