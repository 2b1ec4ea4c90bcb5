# Filters over source trees.
{ lib }:
let
  inherit (lib) hasPrefix hasSuffix removePrefix;
in
rec {
  cleanSourceFilter = name: type:
    let base = baseNameOf (toString name); in
    !((type == "directory" && builtins.elem base [ ".git" ".svn" "CVS" ".hg" ])
      || hasSuffix "~" base || hasSuffix ".o" base || hasSuffix ".so" base || builtins.match "\\.sw[a-z]" base != null
      || (type == "symlink" && hasPrefix "result" base) || type == "unknown");
  cleanSource = src: cleanSourceWith { inherit src; filter = cleanSourceFilter; };
  # Filtered sources can be filtered again: the origin and both filters are kept.
  cleanSourceWith = { src, filter ? _: _: true, name ? null }:
    let
      origin = src.origSrc or src;
      keep = path: type: filter path type && (src.filter or (_: _: true)) path type;
      finalName = if name != null then name else src.name or "source";
    in
    {
      _isLibCleanSourceWith = true;
      origSrc = origin;
      filter = keep;
      name = finalName;
      outPath = builtins.path { filter = keep; path = origin; name = finalName; };
    };
}
