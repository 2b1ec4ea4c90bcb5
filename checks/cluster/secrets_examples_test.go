//go:build cluster

package cluster

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// exampleOn is example for hosts of the pool: they get the addresses that the example gives its hosts, .11 and on.
func exampleOn(t *testing.T, name string, hosts ...*lab.Host) *project {
	t.Helper()
	p := &project{t: t, operator: shared.operator, dir: "/root/examples/" + name}
	if err := shared.operator.Project(t.Context(), "examples/"+name, p.dir); err != nil {
		t.Fatal(err)
	}
	for i, h := range hosts {
		// In two steps: one host's own address may be the one that the next is given.
		p.sh(`sed -i 's/"` + strings.ReplaceAll(standing[names()[i]].Address, ".", `\.`) + `"/"host ` + h.Name + `"/' "$1"/*.nix`)
	}
	for _, h := range hosts {
		p.sh(`sed -i 's/"host ` + h.Name + `"/"` + h.Spec.Address + `"/' "$1"/*.nix`)
	}
	p.commit()
	return p
}

// names are the standing hosts in the order of their addresses.
func names() []string { return []string{"alpha", "beta", "gamma", "delta", "eta"} }

// withStub gives the stand-in of nixpkgs another NixOS module, and locks the project to that.
func (p *project) withStub(file string) {
	p.t.Helper()
	module, err := os.ReadFile("testdata/stubs/" + file)
	if err != nil {
		p.t.Fatal(err)
	}
	nixpkgs := "/src/nixpkgs-with-" + file
	p.sh(`rm -rf ` + nixpkgs + ` && cp -r /src/nixpkgs ` + nixpkgs)
	if err := p.operator.PutReader(p.ctx(), bytes.NewReader(module), nixpkgs+"/nixos/modules/"+file, 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.sh(`cd "$1" && nix flake lock --override-input nixpkgs path:` + nixpkgs)
	p.commit()
}

func TestTheGitlabExampleDeploysAsItIsWritten(t *testing.T) {
	h := take(t)
	p := exampleOn(t, "gitlab", h)
	p.withStub("gitlab.nix")
	r := p.typed("nix", "run", ".#deploy", "--", "switch", "--yes").want(0, "commit these files", "gitlab-jws")
	if got := on(t, h, "cat /run/gitlab/started-by; systemctl is-active gitlab.service"); got != "gitlab\nactive" {
		t.Errorf("the service says %q", got)
	}
	for _, name := range []string{"gitlab-root", "gitlab-secret", "gitlab-otp", "gitlab-db", "gitlab-jws"} {
		if got := on(t, h, "stat --format '%U:%G %a' /run/secrets/"+name+"/secret"); got != "gitlab:gitlab 440" {
			t.Errorf("%s is %s", name, got)
		}
		p.hides(secretOf(t, h, name+"/secret"), r)
	}
	p.commit()
	before := p.state()
	p.run("nix", "run", ".#secrets", "--", "sync").want(0)
	p.run("nix", "flake", "check").want(0)
	if after := p.state(); after != before {
		t.Errorf("a second sync changed the state:\n%s\nwas\n%s", after, before)
	}
	p.deploy("switch").want(0, "unchanged")
}

func TestTheHsmExampleSignsWithAKeyThatStaysInItsToken(t *testing.T) {
	hosts := takeSome(t, 4)
	hsm, first, second, worker := hosts[0], hosts[1], hosts[2], hosts[3]
	p := exampleOn(t, "kubernetes-hsm", hosts...)
	on(t, hsm, "rm -rf /var/lib/hsm") // of another run
	// As somebody who is not root there, and becomes it by sudo.
	p.sh(`cd "$1" && sed -i 's|\./hosts\.nix|& ./user.nix|' flake.nix && echo '{ hosts.hsm-1.deploy.user = "sudoer"; }' >user.nix`)
	p.commit()

	p.typed(helper, "deploy", "switch", "--yes", "--on", "hsm-1").want(0)
	p.commit()
	r := p.switchAll().want(0, "apiserver.pem")
	p.commit()
	if got := on(t, hsm, "SOFTHSM2_CONF=$(systemctl show --property=Environment --value hsm-token.service | grep -o 'SOFTHSM2_CONF=[^ ]*' | cut -d= -f2) pkcs11-tool --module /usr/lib/softhsm/libsofthsm2.so --token-label cluster --login --pin \"$(cat /run/secrets/hsm-pin/secret)\" --list-objects --type privkey"); !strings.Contains(got, "never extractable") {
		t.Errorf("the key of the authority is\n%s", got)
	}
	for _, h := range []*lab.Host{first, second} {
		if got := on(t, worker, "ask-apiserver "+h.Spec.Address+" </dev/null 2>&1"); !strings.Contains(got, "Verification: OK") {
			t.Errorf("the worker does not trust %s:\n%s", h.Name, got)
		}
		p.hides(secretOf(t, h, "apiserver.pem/secret"), r)
	}
	on(t, worker, "! test -e /run/secrets/apiserver.pem && ! test -e /run/secrets/admin.pem")
	on(t, first, "openssl verify -CAfile /run/secrets/ca.pem/public /run/secrets/admin.pem/public")
	before := p.state()
	p.secrets("sync").want(0)
	if after := p.state(); after != before {
		t.Errorf("a second sync changed the state:\n%s\nwas\n%s", after, before)
	}

	// The worker becomes a control plane as well: a certificate with its address as well, for all three, and nothing else is made anew.
	admin := p.sh(`cd "$1"/fleet-state/default/secrets/shared && cat ca.pem/meta.json admin.pem/meta.json`)
	p.sh(`sed -i 's|^{|{ hosts.worker-1 = { tags = [ "controlplane" ]; nixos = ./controlplane.nix; };|' "$1"/user.nix`)
	p.commit()
	p.secrets("sync").want(0, "apiserver.pem")
	p.deploy("switch").want(0)
	for _, h := range []*lab.Host{first, worker} {
		if got := on(t, worker, "ask-apiserver "+h.Spec.Address+" </dev/null 2>&1"); !strings.Contains(got, "Verification: OK") {
			t.Errorf("the worker does not trust %s:\n%s", h.Name, got)
		}
	}
	if got := p.sh(`cd "$1"/fleet-state/default/secrets/shared && cat ca.pem/meta.json admin.pem/meta.json`); got != admin {
		t.Errorf("what has nothing to do with it was made anew:\n%s\nwas\n%s", got, admin)
	}
}
