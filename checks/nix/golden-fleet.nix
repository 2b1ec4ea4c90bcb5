# The fleet that checks/golden/plan.json is the plan of. It sets every option that a plan shows, at least once.
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
        substituteOnDestination = true;
        specialisation = "maintenance";
      };
    };

    old-1 = {
      system = "armv7l-linux";
      deploy = {
        address = "old-1.example.org";
        jumpHosts = [ ];
        elevation = "doas";
        buildOn = "target";
      };
    };

    here = {
      system = "x86_64-linux";
      deploy.address = "local";
    };
  };
}
