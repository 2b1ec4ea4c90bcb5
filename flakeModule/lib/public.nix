# What fleet modules and host modules get as `fleetLib`.
{ lib }:
let
  inherit (lib)
    attrNames
    elem
    filterAttrs
    head
    splitString
    ;

  firstOf =
    which: host:
    if host.network.${which} == [ ] then
      throw ''
        host "${host.name}" has no address in network.${which}, but a module asks for one.
        Set it: hosts.${host.name}.network.${which} = [ "10.0.0.1" ];
      ''
    else
      stripPrefixLength (head host.network.${which});

  stripPrefixLength = address: head (splitString "/" address);
in
{
  /**
    The hosts that have a tag.

    Type:   String -> { <name> = Host } -> { <name> = Host }
    Inputs: the tag, and `hosts` as modules get it
    Example: withTag "web" hosts
  */
  withTag = tag: filterAttrs (_: host: elem tag host.tags);

  /**
    All hosts but one, as a mesh wants its peers.

    Type:   String -> { <name> = a } -> { <name> = a }
  */
  others = name: filterAttrs (other: _: other != name);

  /**
    An address without its prefix length.

    Type:   String -> String
    Example: stripPrefixLength "10.0.0.1/24" => "10.0.0.1"
  */
  inherit stripPrefixLength;

  /**
    The first internal address of a host, without prefix length.

    Type:   Host -> String
    Output: throws, with the option to set, where the host has none
  */
  internalIp = firstOf "internalIps";

  /**
    The first external address of a host, without prefix length.

    Type:   Host -> String
    Output: throws, with the option to set, where the host has none
  */
  externalIp = firstOf "externalIps";

  /**
    Entries for several hosts at once: what the function makes of each name.

    Type:   [String] -> (String -> a) -> { <name> = a }
    Example: { hosts = forHosts [ "a" "b" ] (name: { tags = [ "db" ]; }); }
  */
  forHosts = lib.genAttrs;

  /**
    The names of hosts, sorted.

    Type:   { <name> = Host } -> [String]
  */
  hostNames = attrNames;
}
