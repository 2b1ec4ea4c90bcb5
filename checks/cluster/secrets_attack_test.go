//go:build cluster

package cluster

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

// TestCtrlCDuringASyncKeepsWhatIsFinishedAndLeavesNothing stops a sync while a generator runs on a host, and while a second sync waits for it.
func TestCtrlCDuringASyncKeepsWhatIsFinishedAndLeavesNothing(t *testing.T) {
	h := take(t)
	p := newSecretsProject(t, `{
  hosts.HOST1.nixos.secrets = {
    quick.generator = { mkPassword }: mkPassword { };
    slow.generator = { mkImpureSecretGenerator }: mkImpureSecretGenerator ''
      echo a-value-that-is-not-finished >half
      pwd >/run/secret-test/slow-$(id -u)
      sleep 600
      encrypt <half >$out/secret
    '' "HOST1";
  };
}`, h)
	on(t, h, "chmod 1777 /run/secret-test")
	cmd := p.command(t.Context(), helper, "secrets", "sync")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the generator", func() bool {
		_, err := h.Sh(t.Context(), "test -s /run/secret-test/slow-*")
		return err == nil
	})
	waitFor(t, "the other secret", func() bool {
		return p.sh(`cd "$1" && ls fleet-state/default/secrets/host/*/quick/meta.json 2>/dev/null || true`) != ""
	})
	// A second terminal is told who is at it, and changes nothing.
	p.secrets("sync").want(1, "process", "operator", "writes into this work tree")
	p.signal("INT")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	for _, want := range []string{"quick", "generated", "fleet-state/default/secrets/host/" + h.Name + "/quick"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not said:\n%s", want, out.String())
		}
	}
	p.has(true, "host/"+h.Name+"/quick/meta.json")
	p.has(false, "host/"+h.Name+"/slow*", "host/"+h.Name+"/.*")
	waitFor(t, "no process of ours on the host", func() bool { return processes(t, h, "fleet-helper|sleep 600") == 0 })
	on(t, h, `! test -e "$(cat /run/secret-test/slow-*)"; ! grep -r a-value-that-is-not-finished /run /tmp /var/tmp /dev/shm /root 2>/dev/null | grep -v '^/run/secret-test'`)
	// The next one goes on.
	p.secrets("status").want(5, "slow", "generate")
}

// TestKeysThatLieElsewhere is a host whose root file system is not kept: sshd and secrets have the keys from another folder.
func TestKeysThatLieElsewhere(t *testing.T) {
	t.Parallel()
	h := boot(t, "elsewhere", lab.Spec{Address: lab.Subnet + ".36"})
	p := newProject(t, map[string]hostSpec{"elsewhere": {Content: "first", Deploy: map[string]any{"address": h.Spec.Address}}})
	s := &secretsProject{p, []*lab.Host{h}}
	s.declare(`{
  hosts.HOST1.nixos = {
    secretIdentities = [ "/persist/ssh_host_ed25519_key" ];
    secrets.db.generator = { mkPassword }: mkPassword { };
    secrets.derived.generator = { mkSecretGenerator }: mkSecretGenerator {
      script = "sha256sum <$FLEET_DEPS/db/secret | encrypt >$out/secret";
      parts.secret.encrypted = true;
      dependencies = [ "db" ];
    };
  };
}`)
	on(t, h, `mkdir --mode 700 /persist && mv /etc/ssh/ssh_host_*_key /persist/ && for key in /persist/*_key; do echo "HostKey $key"; done >/etc/ssh/sshd_config.d/elsewhere.conf && systemctl restart ssh.service`)
	s.secrets("host-key", "scan").want(0)
	// Before the first deployment nothing on the host says where the keys are.
	s.secrets("sync", "db").want(0)
	s.commit()
	s.secrets("sync").want(5, "derived", "no key to decrypt with")
	s.declare(`{
  hosts.HOST1.nixos = {
    secretIdentities = [ "/persist/ssh_host_ed25519_key" ];
    secrets.db.generator = { mkPassword }: mkPassword { };
  };
}`)
	s.switchAll().want(0)
	value := secretOf(t, h, "db/secret")
	if got := s.secrets("get", "db").want(0); got.stdout != value {
		t.Error("get printed another value")
	}
	s.secrets("verify").want(0, "1 parts are right")
}

// TestAPrivateKeyInASystemIsWarnedOf: what a system's configuration holds can be read by every user of the host.
func TestAPrivateKeyInASystemIsWarnedOf(t *testing.T) {
	h := take(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	p := newSecretsProject(t, `{ hosts.HOST1.nixos.environment.etc."app/config.json".text = builtins.toJSON { tls.key = ''`+text+`''; }; }`, h)
	start := time.Now()
	got := p.deploy("build").want(0, "holds a private key in PEM", "every user of the host can read the store", "declare it as a secret")
	t.Logf("built in %s", time.Since(start))
	if strings.Contains(got.stdout+got.stderr, strings.Split(text, "\n")[1]) {
		t.Error("the key was printed")
	}
	p.declare(`{ hosts.HOST1.nixos.environment.etc."app/config.json".text = builtins.toJSON { tls.keyFile = "/run/secrets/key"; }; }`)
	if got := p.deploy("build").want(0); strings.Contains(got.stdout+got.stderr, "private key") {
		t.Errorf("a warning without a key:\n%s", got.stderr)
	}
}

// TestADeploymentMakesPublicPartsOfHostsThatItDoesNotDeploy is a mesh of which one host is deployed, by a person who is also asked for a value.
func TestADeploymentMakesPublicPartsOfHostsThatItDoesNotDeploy(t *testing.T) {
	hosts := takeSome(t, 2)
	deployed, peer := hosts[0], hosts[1]
	p := newSecretsProject(t, `{ lib, ... }: {
  hosts = lib.genAttrs [ "HOST1" "HOST2" ] (name: {
    nixos = { nixosHosts, ... }: {
      secrets.wireguard.generator = { mkWireguard }: mkWireguard { };
      environment.etc.peer.text = nixosHosts.${if name == "HOST1" then "HOST2" else "HOST1"}.secrets.wireguard.public.data;
    };
  });
  sharedSecrets.pin = {
    expectedOwners = [ "HOST1" ];
    generator = { mkAskPassword }: mkAskPassword { prompt = "PIN of the token"; };
  };
  sharedSecrets.other = {
    expectedOwners = [ "HOST2" ];
    generator = { mkPassword }: mkPassword { };
  };
}`, deployed, peer)
	const pin = "a-pin-that-is-typed"
	code, output := p.onTerminal([]string{pin, pin}, helper, "deploy", "switch", "--yes", "--on", deployed.Name)
	made := result{t: t, code: code, stdout: output}
	made.want(0, "host/"+peer.Name+"/wireguard", "PIN of the token", "fleet-state/default/secrets/shared/pin")
	p.hides(pin, made)
	public := strings.TrimSpace(p.sh(`cat "$1"/fleet-state/default/secrets/host/` + peer.Name + `/wireguard/public/public`))
	if got := on(t, deployed, "cat /etc/peer; cat /run/secrets/pin/secret"); len(public) != 44 || got != public+"\n"+pin && got != public+pin {
		t.Errorf("the host has %q, its peer's key is %q", got, public)
	}
	// Nothing else is made, and nothing of the peer's reaches this host.
	p.has(false, "shared/other*")
	on(t, deployed, "! grep --quiet "+peer.Name+" /etc/fleet/secrets.json; ! test -e /run/secrets/other")
	p.commit()
	p.deploy("switch", "--on", peer.Name).want(5, "shared/other")
}
