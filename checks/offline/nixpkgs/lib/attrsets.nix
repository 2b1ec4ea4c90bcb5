# Functions over attribute sets.
{ lib }:
let
  inherit (builtins) attrNames attrValues concatMap filter foldl' head isAttrs listToAttrs mapAttrs removeAttrs tail;
in
rec {
  inherit (builtins) catAttrs zipAttrsWith;
  nameValuePair = name: value: { inherit name value; };
  optionalAttrs = condition: attrs: if condition then attrs else { };
  attrByPath = path: default: set:
    if path == [ ] then set
    else if isAttrs set && set ? ${head path} then attrByPath (tail path) default set.${head path}
    else default;
  hasAttrByPath = path: set: path == [ ] || (isAttrs set && set ? ${head path} && hasAttrByPath (tail path) set.${head path});
  getAttrFromPath = path: set: attrByPath path (abort "cannot find attribute '${lib.concatStringsSep "." path}'") set;
  setAttrByPath = path: value: lib.foldr (name: v: { ${name} = v; }) value path;
  getAttrs = names: set: listToAttrs (map (n: nameValuePair n set.${n}) names);
  filterAttrs = keep: set: removeAttrs set (filter (n: !(keep n set.${n})) (attrNames set));
  filterAttrsRecursive = keep: set:
    mapAttrs (_: v: if isAttrs v then filterAttrsRecursive keep v else v) (filterAttrs keep set);
  collect = pred: v: if pred v then [ v ] else if isAttrs v then concatMap (collect pred) (attrValues v) else [ ];
  mapAttrs' = f: set: listToAttrs (map (n: f n set.${n}) (attrNames set));
  mapAttrsToList = f: set: map (n: f n set.${n}) (attrNames set);
  attrsToList = mapAttrsToList nameValuePair;
  concatMapAttrs = f: set: mergeAttrsList (mapAttrsToList f set);
  mergeAttrsList = foldl' (a: b: a // b) { };
  mapAttrsRecursiveCond = cond: f:
    let go = path: mapAttrs (n: v: if isAttrs v && cond v then go (path ++ [ n ]) v else f (path ++ [ n ]) v); in go [ ];
  mapAttrsRecursive = mapAttrsRecursiveCond (_: true);
  genAttrs = names: f: listToAttrs (map (n: nameValuePair n (f n)) names);
  zipAttrs = builtins.zipAttrsWith (_: vs: vs);
  recursiveUpdateUntil = stop: left: right:
    let
      go = path: l: r:
        l // mapAttrs
          (n: v:
            let here = path ++ [ n ]; in
            if l ? ${n} && !(stop here l.${n} v) then go here l.${n} v else v)
          r;
    in
    go [ ] left right;
  recursiveUpdate = recursiveUpdateUntil (_: l: r: !(isAttrs l && isAttrs r));
  showAttrPath = path: if path == [ ] then "<root attribute path>" else lib.concatMapStringsSep "." lib.strings.escapeNixIdentifier path;
  isDerivation = v: v.type or null == "derivation";
  toDerivation = path:
    let
      drv = {
        type = "derivation"; name = lib.strings.sanitizeDerivationName (builtins.substring 33 (-1) (baseNameOf path));
        outPath = builtins.storePath path; outputs = [ "out" ]; out = drv; outputName = "out";
      };
    in
    drv;
  getOutput = output: pkg: if pkg.outputSpecified or false then pkg else pkg.${output} or pkg.out or pkg;
  getBin = getOutput "bin";
  getLib = getOutput "lib";
}
