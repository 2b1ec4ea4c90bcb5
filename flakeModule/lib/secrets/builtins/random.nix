# Passwords and random bytes.
{
  lib,
  make,
  pkgs,
  words,
}:
let
  inherit (make) sealed;
  inherit (words) flag one;
  inherit (lib) optionalString;

  generator = make.builtin pkgs;

  bytes =
    {
      count,
      encoding,
      noNuls,
    }@arguments:
    generator {
      name = "mkBytes";
      inherit arguments;
      parts.secret = sealed;
      script = "gh generate bytes -o \"$out/secret\" --count=${toString count}${flag "encoding" encoding}${optionalString noNuls " --no-nuls"}\n";
    };
in
{
  /**
    A random password of printable characters, as the part `secret`. `noSymbols` leaves letters and digits.

    Type:   { size ? 32, noSymbols ? false } -> Generator
  */
  mkPassword =
    {
      size ? 32,
      noSymbols ? false,
    }:
    generator {
      name = "mkPassword";
      arguments = { inherit size noSymbols; };
      parts.secret = sealed;
      script = "gh generate password -o \"$out/secret\" --size=${toString size}${optionalString noSymbols " --no-symbols"}\n";
    };

  /**
    A random password as the part `secret`, and what users' accounts need of it as the part `hash`: `"yescrypt"` or `"bcrypt"`. Both parts are
    encrypted. `cost` is that of bcrypt.

    Type:   { size ? 32, noSymbols ? false, hash ? "yescrypt", cost ? null } -> Generator
  */
  mkPasswordHash =
    {
      size ? 32,
      noSymbols ? false,
      hash ? "yescrypt",
      cost ? null,
    }:
    generator {
      name = "mkPasswordHash";
      arguments = {
        inherit size noSymbols cost;
        hash = one "mkPasswordHash" "hash" [ "bcrypt" "yescrypt" ] hash;
      };
      parts = {
        secret = sealed;
        hash = sealed;
      };
      # What the tests' packages do not have is taken from the machine.
      path = lib.optional (hash == "yescrypt" && pkgs ? mkpasswd) pkgs.mkpasswd;
      script = ''
        gh generate password -o "$out/secret" --size=${toString size}${optionalString noSymbols " --no-symbols"}
        gh hash ${hash} -i "$out/secret" -o "$out/hash"${flag "cost" cost}
      '';
    };

  /**
    `count` random bytes, as the part `secret`, in the encoding `"raw"`, `"base64"` or `"hex"`. `noNuls` leaves out zero bytes, which some
    programs take for the end.

    Type:   { count ? 32, encoding ? "raw", noNuls ? false } -> Generator
  */
  mkBytes =
    {
      count ? 32,
      encoding ? "raw",
      noNuls ? false,
    }:
    bytes { inherit count encoding noNuls; };

  /**
    `mkBytes` in hexadecimal.

    Type:   { count ? 32, noNuls ? false } -> Generator
  */
  mkHexBytes =
    {
      count ? 32,
      noNuls ? false,
    }:
    bytes {
      inherit count noNuls;
      encoding = "hex";
    };

  /**
    `mkBytes` in base64.

    Type:   { count ? 32, noNuls ? false } -> Generator
  */
  mkBase64Bytes =
    {
      count ? 32,
      noNuls ? false,
    }:
    bytes {
      inherit count noNuls;
      encoding = "base64";
    };
}
