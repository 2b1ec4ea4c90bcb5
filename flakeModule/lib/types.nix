# Types of options. Each says in words what it wants, because the pattern alone helps nobody.
{ lib, names, health }:
let
  inherit (lib) isFunction types;

  matching = pattern: description: types.strMatching pattern // { inherit description; };
in
{
  system = types.enum names.targetSystems;

  tag = matching "[A-Za-z0-9_][A-Za-z0-9_./:+=-]{0,127}" "tag (letters, digits and _ . / : + = -)";

  # The first character is restricted because addresses and users become arguments of programs.
  address = matching "[A-Za-z0-9_:][A-Za-z0-9_.:%+-]*" "host name or IP address, without user, port or brackets";

  port = types.addCheck types.port (port: port > 0) // {
    description = "port, from 1 to 65535";
  };

  user = matching "[A-Za-z0-9_][A-Za-z0-9_.@\\+$-]*" "user name";

  jumpHost = matching "([A-Za-z0-9_][^@[:space:]]*@)?[A-Za-z0-9_:[][^@[:space:]]*" "[user@]host[:port]";

  hostKey = matching "[a-z0-9][a-z0-9@.-]* [A-Za-z0-9+/]+=*( .*)?" "SSH public key, as \"ssh-ed25519 AAAA…\"";

  ip = matching "[0-9a-fA-F.:]+(/[0-9]{1,3})?" "IP address, with or without a prefix length";

  name = matching "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}" "name (letters, digits and _ . -)";

  # Go's durations and systemd's know no limit; a day is more than any activation takes.
  seconds = least: types.ints.between least 86400 // { description = "seconds, from ${toString least} to 86400"; };

  unitPattern = matching "[A-Za-z0-9_*?][A-Za-z0-9_.:@\\*?-]*" "name of a systemd unit, in which * and ? match as in file names";

  healthCheck = health.type;

  secretMode = matching "0?[0-7]{2}0" "mode in octal that gives others nothing, as \"0440\"";

  generator = types.addCheck types.raw isFunction // {
    description = "function that returns a generator, as { mkPassword }: mkPassword { }";
  };

  # A host can also take what the fleet declares.
  hostGenerator = types.addCheck types.raw (value: value == "shared" || isFunction value) // {
    description = "function that returns a generator, as { mkPassword }: mkPassword { }, or \"shared\"";
  };

  overlay = types.addCheck types.raw isFunction // {
    description = "overlay, a function final: prev: { … }";
  };
}
