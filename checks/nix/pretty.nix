/**
  JSON that a person can read and git can merge: two spaces, one value a line, keys sorted.

  Type:   Value -> String
*/
let
  render =
    indent: value:
    let
      deeper = "${indent}  ";
      block =
        open: close: lines:
        if lines == [ ] then
          "${open}${close}"
        else
          "${open}\n${deeper}${builtins.concatStringsSep ",\n${deeper}" lines}\n${indent}${close}";
    in
    if builtins.isAttrs value then
      block "{" "}" (
        map (name: "${builtins.toJSON name}: ${render deeper value.${name}}") (builtins.attrNames value)
      )
    else if builtins.isList value then
      block "[" "]" (map (render deeper) value)
    else
      builtins.toJSON value;
in
value: render "" value + "\n"
