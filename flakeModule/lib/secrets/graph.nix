# Dependencies between secrets.
{ lib }:
let
  inherit (lib)
    any
    attrNames
    filterAttrs
    head
    ;

  # What is left when everything that waits for nothing is taken away, again and again: each of these waits for another of them.
  waiting =
    graph:
    let
      rest = filterAttrs (_: any (id: graph ? ${id})) graph;
    in
    if attrNames rest == attrNames graph then rest else waiting rest;
in
{
  /**
    A circle of dependencies, from one of its secrets to itself; null where there is none.

    Type:   { <id> = [id] } -> null | [id]
    Example: cycle { a = [ "b" ]; b = [ "a" ]; } => [ "a" "b" "a" ]
  */
  cycle =
    graph:
    let
      left = waiting graph;
      next = id: head (lib.filter (other: left ? ${other}) left.${id});
      walk = seen: id: if lib.elem id seen then from id seen ++ [ id ] else walk (seen ++ [ id ]) (next id);
      from = id: seen: if head seen == id then seen else from id (lib.tail seen);
    in
    if left == { } then null else walk [ ] (head (attrNames left));
}
