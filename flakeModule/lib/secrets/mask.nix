# What identifies a generator must not change with every nixpkgs, so store paths are left out of it. What the flake itself has in its
# files is told by their contents.
{ lib }:
let
  inherit (builtins)
    elemAt
    getContext
    hashFile
    isString
    match
    pathExists
    readDir
    split
    storeDir
    toString
    unsafeDiscardStringContext
    ;

  store = lib.escapeRegex storeDir;

  # The path of something in the store, and what is below it.
  reference = "(${store}/[0-9a-df-np-sv-z]{32}-([A-Za-z0-9+._?=-]+))((/[A-Za-z0-9+._?=@%,-]+)*)";

  # Nix 2.8 knows no readFileType.
  typeOf = path: (readDir (dirOf path)).${baseNameOf path};

  contents =
    path:
    let
      type = typeOf path;
    in
    if type == "regular" then
      hashFile "sha256" path
    else if type == "directory" then
      # The path of a copy is made from the hash of all that is in it.
      unsafeDiscardStringContext (
        builtins.path {
          path = /. + path;
          name = "contents";
        }
      )
    else
      type;
in
{
  /**
    A text with its store paths masked, hash and name: an update of nixpkgs changes both. Two kinds of paths say something about the
    flake, and are kept in another form: a file or folder of the flake that was copied by itself (as in `"''${./script.sh}"`), whose path
    is made from its contents, and what is below the flake's own path, which is replaced by a hash of its contents.

    Type:   Path -> String -> String
    Inputs: the path of the flake; a text
    Output: without context, so that it refers to nothing
  */
  mask =
    flake:
    let
      root = match "(${store}/[^/]+)(/.*)?" (unsafeDiscardStringContext (toString flake));

      ofFlake =
        sub: path:
        if sub != "" && pathExists path then
          "<flake ${sub} ${contents path}>"
        else
          "<flake ${sub}>";

      one =
        context: found:
        let
          base = elemAt found 0;
          name = elemAt found 1;
          sub = elemAt found 2;
          isCopy = context.${base}.path or false;
        in
        if root != null && base == elemAt root 0 then
          ofFlake sub "${base}${sub}"
        # Whole inputs of a flake are called "source".
        else if isCopy && name != "source" then
          base + sub
        else
          "<store>${sub}";
    in
    text:
    lib.concatStrings (
      map (piece: if isString piece then piece else one (getContext text) piece) (
        split reference (unsafeDiscardStringContext text)
      )
    );

  /**
    A hash of what a file or folder holds.

    Type:   Path -> String
  */
  contents = path: contents (toString path);
}
