# Health checks: one type for what the fleet says of a host and for what its own modules say, and what is made of both.
{ lib }:
let
  inherit (lib)
    concatStringsSep
    filter
    literalExpression
    mapAttrs
    mkOption
    optional
    types
    ;

  matching = pattern: description: types.strMatching pattern // { inherit description; };

  # push/health reads no more.
  maxChecks = 64;
  isCheckName = name: builtins.match "[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}" name != null;

  hostAndPort =
    let
      matches = matching "([A-Za-z0-9_][A-Za-z0-9_.%+-]*|\\[[A-Za-z0-9:.%_-]+]):[1-9][0-9]{0,4}" "HOST:PORT, an IPv6 address in brackets";
      portOf = text: lib.toInt (lib.last (lib.splitString ":" text));
    in
    types.addCheck matches (text: portOf text <= 65535) // { inherit (matches) description; };

  seconds = types.ints.between 1 86400 // {
    description = "seconds, from 1 to 86400";
  };

  kinds = [
    "command"
    "http"
    "tcp"
    "unit"
  ];

  httpCheck = {
    options = {
      url = mkOption {
        type = matching "https?://[^/[:space:]]+[^[:space:]]*" "URL that begins with http:// or https://";
        description = "What is asked for, with GET. Redirects are not followed.";
        example = "http://localhost:8080/healthz";
      };

      status = mkOption {
        type = types.nullOr (types.ints.between 100 599 // { description = "status of HTTP, from 100 to 599"; });
        default = null;
        description = "The status that has to be answered. Null is any of 200 to 299.";
        example = 204;
      };
    };
  };

  # Nix adds a name to the context of a string that a store path is in.
  withoutContext = builtins.unsafeDiscardStringContext;

  given = check: filter (kind: check.${kind} != null && check.${kind} != [ ]) kinds;
in
rec {
  /**
    The type of one health check.

    Type:   OptionType
  */
  type = types.submodule {
    options = {
      command = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        description = ''
          A program with its arguments, run as root, that succeeds by exit status 0. There is no shell around it: `[ "sh" "-c" "…" ]` is one.
        '';
        example = [
          "systemctl"
          "is-active"
          "--quiet"
          "nginx.service"
        ];
      };

      tcp = mkOption {
        type = types.nullOr hostAndPort;
        default = null;
        description = "A host and port that accept a connection.";
        example = "localhost:5432";
      };

      http = mkOption {
        type = types.nullOr (types.submodule httpCheck);
        default = null;
        description = "A URL that answers.";
        example = literalExpression ''{ url = "http://localhost:8080/healthz"; }'';
      };

      unit = mkOption {
        type = types.nullOr (matching "[A-Za-z0-9_][A-Za-z0-9_.:@\\-]*\\.[a-z]+" "name of a systemd unit with its type, as \"nginx.service\"");
        default = null;
        description = "A systemd unit that is active.";
        example = "postgresql.service";
      };

      timeout = mkOption {
        type = seconds;
        default = 30;
        description = "How many seconds the check may take to succeed for the first time. It is tried again and again until then.";
        example = 120;
      };

      interval = mkOption {
        type = seconds;
        default = 2;
        description = "How many seconds are between two tries.";
        example = 5;
      };

      from = mkOption {
        type = types.str;
        default = "host";
        description = ''
          Who looks: `"host"`, the host itself; `"operator"`, the machine that deploys; or another host of the fleet by its name. What is looked at from elsewhere must have an address that means
          the host there, not localhost.
        '';
        example = "operator";
      };
    };
  };

  /**
    What is wrong with a health check, beyond what its type refuses.

    Type:   { <host> = a } -> String -> String -> Check -> [String]
    Inputs: the hosts of the fleet; the host that is looked at; the check's name and value
    Output: a sentence for each fault, which goes on after the name of an option
  */
  faults =
    hosts: host: name: check:
    let
      count = given check;
    in
    optional (!isCheckName name)
      "has a name that is none: up to 100 letters, digits, _ . and -, beginning with a letter, a digit or _"
    ++ optional (builtins.length count != 1) (
      "must have exactly one of ${concatStringsSep ", " kinds}"
      + (if count == [ ] then ", and has none" else ", and has ${concatStringsSep " and " count}")
    )
    ++ optional (
      check.command != null && check.command != [ ] && builtins.head check.command == ""
    ) "has a command without a program"
    ++ optional (
      check.unit != null && check.from == "operator"
    ) "looks at a unit, which the machine that deploys cannot; remove from, or write a command"
    ++ optional (check.from == host) "is looked at from the host itself, which is called \"host\" in from"
    ++ optional (
      check.from != host && !(lib.elem check.from [ "host" "operator" ]) && !(hosts ? ${check.from})
    ) "is looked at from \"${check.from}\", and the fleet has no host of that name";

  /**
    What is wrong with the checks of a host as a whole.

    Type:   { <name> = Check } -> [String]
    Output: as of `faults`
  */
  faultsOfAll =
    checks:
    let
      count = builtins.length (builtins.attrNames checks);
    in
    optional (count > maxChecks) "has ${toString count} checks, and a host can have ${toString maxChecks}";

  /**
    Health checks as plans and records say them: plain data without context, null where nothing was said.

    Type:   { <name> = Check } -> { <name> = PlanCheck }
  */
  render = mapAttrs (
    _: check: {
      inherit (check)
        tcp
        unit
        timeout
        interval
        from
        ;
      command = if check.command == null then null else map withoutContext check.command;
      http = if check.http == null then null else { inherit (check.http) url status; };
    }
  );

  /**
    Health checks as a host finds them in its own system, for what nobody has told it: push/proto/guard.go says what the fields mean.

    Type:   { <name> = Check } -> { <name> = HostCheck }
    Output: only what was said; programs keep their context, so that they are part of the system
  */
  renderForHost = mapAttrs (
    _: check:
    lib.filterAttrs (_: value: value != null) {
      inherit (check)
        command
        tcp
        unit
        from
        ;
      timeoutSeconds = check.timeout;
      intervalSeconds = check.interval;
      http =
        if check.http == null then null else lib.filterAttrs (_: value: value != null) { inherit (check.http) url status; };
    }
  );
}
