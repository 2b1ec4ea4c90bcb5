# File sets as predicates over paths: enough for `toSource` with unions, differences and filters.
{ lib }:
let
  inherit (builtins) all any pathExists;
  coerce = x: if x ? contains then x else {
    contains = path: _: let p = toString x; in path == p || lib.hasPrefix (p + "/") path;
    roots = [ (toString x) ];
  };
  combine = f: xs: { contains = path: type: f (x: (coerce x).contains path type) xs; roots = lib.concatMap (x: (coerce x).roots) xs; };
in
rec {
  unions = combine any;
  union = a: b: unions [ a b ];
  intersection = a: b: combine all [ a b ];
  difference = a: b: { contains = path: type: (coerce a).contains path type && !((coerce b).contains path type); inherit (coerce a) roots; };
  maybeMissing = path: if pathExists path then coerce path else unions [ ];
  fileFilter = keep: root: {
    contains = path: type: (coerce root).contains path type && keep {
      inherit type;
      name = baseNameOf path;
      hasExt = ext: lib.hasSuffix ".${ext}" path;
    };
    roots = [ (toString root) ];
  };
  # A directory is kept when it leads to a root or lies in one; files are kept when they are members.
  toSource = { root, fileset }:
    let
      set = coerce fileset;
      leads = path: any (r: lib.hasPrefix (path + "/") r || lib.hasPrefix (r + "/") path || r == path) set.roots;
    in
    lib.cleanSourceWith {
      src = root;
      filter = path: type: if type == "directory" then leads path else set.contains path type;
    };
}
