//go:build cluster

package cluster

import (
	"fmt"
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// oneHost declares what one host has for itself: a password for a user of its own, and a token that systemd hands to a service.
const oneHost = `{
  hosts.HOST1.nixos = { config, ... }: {
    users.users.db = { isSystemUser = true; group = "db"; };
    users.groups.db = { };
    secrets.db = {
      generator = { mkPassword }: mkPassword { size = 40; noSymbols = true; };
      owner = "db";
      mode = "0400";
    };
    secrets.token.generator = { mkHexBytes }: mkHexBytes { count = 16; };
    environment.etc.db-password.text = config.secrets.db.secretPath;
    systemd.services.token-reader = {
      wantedBy = [ "multi-user.target" ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        DynamicUser = true;
        RuntimeDirectory = "token-reader";
        LoadCredential = "token:${config.secrets.token.secret.path}";
      };
      script = "wc --bytes <$CREDENTIALS_DIRECTORY/token >$RUNTIME_DIRECTORY/size";
    };
  };
}`

func TestDeployMakesWhatIsMissingAndInstallsItForItsOwner(t *testing.T) {
	h := take(t)
	p := newSecretsProject(t, oneHost, h)
	deployed := p.switchAll().want(0, "commit these files", "fleet-state/default/secrets/host/"+h.Name+"/db")
	look := func() string {
		return on(t, h, `stat --format '%U:%G %a' "$(cat /etc/db-password)"; cat "$(cat /etc/db-password)" | wc --bytes; cmp "$(cat /etc/db-password)" /run/secrets/db/secret; cat /run/token-reader/size`)
	}
	if got, want := look(), "db:db 400\n40\n32"; got != want {
		t.Errorf("the host has\n%s\nwant\n%s", got, want)
	}
	if options := on(t, h, "findmnt --noheadings --output FSTYPE,OPTIONS --target /run/secrets/db/secret"); !strings.Contains(options, "noswap") && !strings.Contains(options, "ramfs") {
		t.Errorf("the secrets lie on a file system that may be swapped out: %s", options)
	}
	p.hides(secretOf(t, h, "db/secret"), deployed)

	p.commit()
	before := p.state()
	p.secrets("sync").want(0)
	p.secrets("status").want(0, "db", "token")
	p.deploy("switch").want(0, "unchanged")
	if after := p.state(); after != before {
		t.Errorf("a sync that had nothing to do changed the state:\n%s\nwas\n%s", after, before)
	}
	p.secrets("verify").want(0)
	p.run("nix", "flake", "check").want(0)

	value := secretOf(t, h, "db/secret")
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := look(), "db:db 400\n40\n32"; got != want || secretOf(t, h, "db/secret") != value {
		t.Errorf("after a reboot the host has\n%s\nwant\n%s", got, want)
	}
}

func TestWhereNothingMayBeGeneratedDeploySaysWhatIsMissing(t *testing.T) {
	h := take(t)
	p := newSecretsProject(t, oneHost, h)
	system := runs(t, h)
	p.typed(helper, "deploy", "switch", "--yes", "--no-secrets-sync").want(5, "db", "token", "fleet secrets sync")
	p.deploy("switch").want(5, "db", "token", "there is no terminal", "fleet secrets sync")
	if got := runs(t, h); got != system {
		t.Errorf("the host runs %s, want still %s", got, system)
	}
	p.secrets("sync").want(0)
	p.deploy("switch", "--no-secrets-sync").want(0)
}

// sharedToken declares a secret that several hosts own, and a service on the first one that notes when it starts.
func sharedToken(owners string) string {
	return fmt.Sprintf(`{
  sharedSecrets.token = {
    expectedOwners = [ %s ];
    regenerateOnOwnerAdded = false;
    generator = { mkPassword }: mkPassword { size = 40; noSymbols = true; };
  };
  hosts.HOST1.nixos = { config, lib, ... }: {
    secrets = lib.optionalAttrs (lib.elem "HOST1" [ %s ]) {
      token = { generator = "shared"; restartUnits = [ "counter.service" ]; };
    };
    systemd.services.counter = {
      wantedBy = [ "multi-user.target" ];
      serviceConfig = { Type = "oneshot"; RemainAfterExit = true; };
      script = "[ ! -e /run/secrets/token ] || sha256sum </run/secrets/token/secret >>/run/secret-test/starts";
    };
  };
}`, owners, owners)
}

func TestOwnersComeAndGoAndServicesRestartForNewValuesOnly(t *testing.T) {
	hosts := takeSome(t, 2)
	first, second := hosts[0], hosts[1]
	// The service notes at every start which value it found.
	starts := func() int { return strings.Count(on(t, first, "cat /run/secret-test/starts"), "-") }

	p := newSecretsProject(t, sharedToken(`"HOST1"`), first, second)
	p.switchAll().want(0)
	value := secretOf(t, first, "token/secret")
	if starts() != 1 {
		t.Fatalf("the service started %d times, want once", starts())
	}
	sealed := p.sh(`cat "$1"/fleet-state/default/secrets/shared/token/owners/` + first.Name + `.json`)

	// Another owner gets the same value: the first one seals it, and the operator's machine sees nothing of it.
	p.declare(sharedToken(`"HOST1" "HOST2"`))
	added := p.secrets("sync").want(0, "token", second.Name)
	p.hides(value, added)
	p.deploy("switch").want(0)
	if got := secretOf(t, second, "token/secret"); got != value {
		t.Errorf("the new owner has another value")
	}
	if starts() != 1 {
		t.Errorf("the service started anew for a value that it has: %d times", starts())
	}
	if got := p.sh(`cat "$1"/fleet-state/default/secrets/shared/token/owners/` + first.Name + `.json`); got != sealed {
		t.Errorf("the first owner's file changed:\n%s\nwas\n%s", got, sealed)
	}
	p.commit()

	// A new value reaches both, and what asked for it starts anew.
	p.secrets("regenerate", "token", "--yes").want(0)
	p.deploy("switch").want(0)
	renewed := secretOf(t, first, "token/secret")
	if renewed == value || renewed != secretOf(t, second, "token/secret") {
		t.Errorf("both hosts do not have one new value")
	}
	if starts() != 2 {
		t.Errorf("the service started %d times, want twice", starts())
	}
	on(t, first, `[ "$(tail -n 1 /run/secret-test/starts)" = "$(sha256sum </run/secrets/token/secret)" ]`)
	p.commit()

	// Who is no owner any more loses its copy, here with the last secret of a host. That it could read the value is noted.
	p.declare(sharedToken(`"HOST2"`))
	p.secrets("sync").want(0, first.Name)
	p.has(false, "shared/token/owners/"+first.Name+".json")
	p.has(true, "shared/token/owners/"+second.Name+".json", "shared/token/revoked/*-"+first.Name+".json")
	p.deploy("switch").want(0)
	on(t, first, "! test -e /run/secrets/token")
	if secretOf(t, second, "token/secret") != renewed {
		t.Errorf("the value that is left changed")
	}
	// The removed host could read it: what it could read is made anew when it is asked for.
	p.commit()
	p.secrets("rotate", "--readable-by", first.Name, "--yes").want(0, "token")
	p.deploy("switch").want(0)
	if secretOf(t, second, "token/secret") == renewed {
		t.Errorf("rotate left a value that the host could read")
	}
}

func TestAHostThatCouldNotDecryptIsNotSwitched(t *testing.T) {
	t.Parallel()
	h := boot(t, "keylost", lab.Spec{Address: lab.Subnet + ".34"})
	p := newProject(t, map[string]hostSpec{"keylost": {Content: "first", Deploy: map[string]any{"address": h.Spec.Address}}})
	s := &secretsProject{p, []*lab.Host{h}}
	s.declare(oneHost)
	s.secrets("host-key", "scan").want(0)
	s.switchAll().want(0)
	s.commit()

	// sshd goes on with the key, but the host has lost it where it is looked for.
	on(t, h, `cd /etc/ssh && mkdir hidden && mv ssh_host_ed25519_key ssh_host_rsa_key hidden/ && printf 'HostKey /etc/ssh/hidden/%s\n' ssh_host_ed25519_key ssh_host_rsa_key >sshd_config.d/hidden.conf && systemctl restart ssh.service`)
	system := runs(t, h)
	p.write(map[string]hostSpec{"keylost": {Content: "second", Deploy: map[string]any{"address": h.Spec.Address}}})
	p.deploy("switch").want(5, "keylost", "no key to decrypt with", "host-key scan")
	if got := content(t, h); got != "first" || runs(t, h) != system {
		t.Errorf("the host was switched: it holds %q", got)
	}
	p.secrets("verify").want(3, "keylost", "no key to decrypt with")

	on(t, h, `cd /etc/ssh && mv hidden/* . && rm sshd_config.d/hidden.conf && systemctl restart ssh.service`)
	p.deploy("switch").want(0)
	if got := content(t, h); got != "second" {
		t.Errorf("the host holds %q", got)
	}
}

func TestAGeneratorOnAHostLeavesNothingBehind(t *testing.T) {
	h := take(t)
	p := newSecretsProject(t, `{
  hosts.HOST1.deploy.user = "sudoer";
  hosts.HOST1.nixos.secrets = {
    made.generator = { mkImpureSecretGenerator }: mkImpureSecretGenerator ''
      echo "$(id -un) $(sudo id -un) $HOME $(stat -c %a .) $PWD" >$out/public
      sudo cat /etc/machine-id | encrypt >$out/secret
      echo 2126-01-01T00:00:00Z >$out/expires_at
    '' "HOST1";
    failing.generator = { mkImpureSecretGenerator }: mkImpureSecretGenerator ''
      echo "$PWD" | sudo tee /run/secret-test/failing
      echo unfinished >leftover
      echo "no certificate today" >&2
      exit 3
    '' "HOST1";
    fine.generator = { mkPassword }: mkPassword { };
  };
}`, h)
	p.secrets("sync").want(5, "failing", "no certificate today")
	p.has(true, "host/"+h.Name+"/made/meta.json", "host/"+h.Name+"/fine/meta.json")
	p.has(false, "host/"+h.Name+"/failing*")
	words := strings.Fields(p.sh(`cat "$1"/fleet-state/default/secrets/host/` + h.Name + `/made/public/public`))
	if len(words) != 5 || strings.Join(words[:4], " ") != "sudoer root /home/sudoer 700" {
		t.Fatalf("the generator ran as %q", words)
	}
	for _, dir := range []string{words[4], on(t, h, "cat /run/secret-test/failing")} {
		on(t, h, "! test -e "+dir)
	}
	if meta := p.sh(`cat "$1"/fleet-state/default/secrets/host/` + h.Name + `/made/meta.json`); !strings.Contains(meta, "2126-01-01T00:00:00Z") {
		t.Errorf("the expiry is not in\n%s", meta)
	}
}

func TestAPersonGivesAndReadsValues(t *testing.T) {
	h := take(t)
	p := newSecretsProject(t, `{ hosts.HOST1.nixos.secrets.given = { }; }`, h)
	p.switchAll().want(5, "given", "fleet secrets set")
	p.feed("typed by a person", helper, "secrets", "set", "given").want(0)
	p.deploy("switch").want(0)
	if got := secretOf(t, h, "given/secret"); got != "typed by a person" {
		t.Errorf("the host has %q", got)
	}
	if r := p.secrets("get", "given").want(0); r.stdout != "typed by a person" && r.stdout != "typed by a person\n" {
		t.Errorf("get printed %q", r.stdout)
	}
	p.hides("typed by a person")
}
