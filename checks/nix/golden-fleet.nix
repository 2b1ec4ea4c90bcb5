# The fleet that checks/golden/plan.json is the plan of. It sets every option that a plan shows, at least once. checks/golden/health.json is what the
# system of web-1 says of its health checks.
let
  health = {
    site = {
      http.url = "https://web.example.org/healthz";
      http.status = 204;
      from = "operator";
      timeout = 60;
      interval = 5;
    };
    ssh = {
      tcp = "[2001:db8::1]:2222";
      from = "plain-1";
    };
    nginx.unit = "nginx.service";
    cache.command = [
      "/run/current-system/sw/bin/redis-cli"
      "ping"
    ];
  };
in
{
  warnings = [ "hosts.old-1 runs on hardware that is to be replaced." ];

  hosts = {
    # Nothing but what a host must have.
    plain-1.system = "x86_64-linux";

    web-1 = {
      system = "aarch64-linux";
      tags = [
        "web"
        "canary"
      ];
      network = {
        internalIps = [ "10.0.0.1/24" ];
        externalIps = [
          "192.0.2.1"
          "2001:db8::1"
        ];
      };
      deploy = {
        address = "2001:db8::1";
        port = 2222;
        user = "admin";
        jumpHosts = [ "gate@gate.example.org:22" ];
        hostKeys = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIgrguf0j0bYr/iFlaMwtqoU7iMcq0jM9Rgi8mSkslLs" ];
        transport = "openssh";
        elevation = "sudo";
        buildOn = "plain-1";
        relay = "plain-1";
        relayPort = 7272;
        substituteOnDestination = true;
        specialisation = "maintenance";
        guard = {
          switchTimeout = 1800;
          rollbackTimeout = 900;
          confirmTimeout = 120;
          bootConfirm = 900;
          settle = 20;
          soak = 30;
          reboot = "never";
          ignoreUnits = [
            "certbot.service"
            "backup-*.service"
          ];
          skipChecks = [ "boot-space" ];
          vantages = [ "plain-1" ];
        };
        inherit health;
        drain = [
          "/run/current-system/sw/bin/pool"
          "leave"
        ];
        undrain = [
          "/run/current-system/sw/bin/pool"
          "join"
        ];
      };
      nixos.fleet = { inherit health; };
    };

    old-1 = {
      system = "armv7l-linux";
      deploy = {
        address = "old-1.example.org";
        jumpHosts = [ ];
        elevation = "doas";
        buildOn = "target";
        guard.enable = false;
      };
    };

    here = {
      system = "x86_64-linux";
      deploy.address = "local";
    };
  };

  sharedSecrets = {
    # Nothing but what a secret must have: a person gives it.
    token = { };

    "ca.pem" = {
      expectedOwners = [ "web-1" ];
      generator = { mkX509Ca }: mkX509Ca { subject.CN = "Example root"; };
    };

    "web.pem" = {
      expectedOwners = [
        "plain-1"
        "@web"
      ];
      regenerateOnOwnerAdded = true;
      regenerateOnOwnerRemoved = false;
      onDependencyChange = "keep";
      generator =
        { mkX509Leaf }:
        mkX509Leaf {
          ca = "ca.pem";
          subject.CN = "web";
          sans = [ "DNS:web.example.org" ];
        };
    };

    hsm = {
      expectedOwners = [ "@all" ];
      onGeneratorChange = "regenerate";
      parts = {
        secret = { };
        version = {
          encrypted = false;
          pattern = "v[0-9]+";
        };
      };
      generator =
        { mkImpureSecretGenerator }:
        mkImpureSecretGenerator {
          script = "echo v1 | gh public -o $out/version; head -c 32 /dev/random | gh private -o $out/secret";
          impureOn = "here";
          sandbox = "network";
          generationData.release = 1;
        };
    };

    api = {
      expectedOwners = [ "here" ];
      generator = { mkAskEnv }: mkAskEnv { variable = "API_KEY"; };
    };
  };
}
