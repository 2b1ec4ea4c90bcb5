//go:build cluster

package cluster

import (
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// ownedBy declares a shared secret of these owners.
func ownedBy(owners string) string {
	return `{
  sharedSecrets.token = {
    expectedOwners = [ ` + owners + ` ];
    regenerateOnOwnerAdded = false;
    generator = { mkPassword }: mkPassword { };
  };
}`
}

func TestANewOwnerGetsItsCopyFromWhicheverOwnerCanBeReached(t *testing.T) {
	hosts := takeSome(t, 3)
	away, owner, added := hosts[0], hosts[1], hosts[2]
	p := newSecretsProject(t, ownedBy(`"HOST1" "HOST2"`), hosts...)
	p.secrets("sync").want(0)
	p.commit()
	before := p.state()

	// None of the owners: nothing changes, and that is said.
	specs := each("secrets", hosts)
	specs[away.Name] = hostSpec{Deploy: map[string]any{"address": lab.Subnet + ".98"}}
	specs[owner.Name] = hostSpec{Deploy: map[string]any{"address": lab.Subnet + ".99"}}
	p.write(specs)
	p.declare(ownedBy(`"HOST1" "HOST2" "HOST3"`))
	p.secrets("sync").want(5, "token", added.Name, away.Name, owner.Name)
	if after := p.state(); after != before {
		t.Errorf("without an owner the state changed:\n%s\nwas\n%s", after, before)
	}

	// The first one is away, the next one is asked.
	delete(specs, owner.Name)
	specs[owner.Name] = each("secrets", []*lab.Host{owner})[owner.Name]
	p.write(specs)
	p.secrets("sync").want(0, added.Name)
	p.has(true, "shared/token/owners/"+added.Name+".json")
	p.secrets("verify", "--on", owner.Name, "--on", added.Name).want(0)
}

func TestAMergeRequestCannotRedirectSecrets(t *testing.T) {
	hosts := takeSome(t, 2)
	h, attacker := hosts[0], hosts[1]
	p := newSecretsProject(t, `{ hosts.HOST1.nixos.secrets.token.generator = { mkPassword }: mkPassword { }; }`, h)
	foreign := hostKey(t, attacker, "ed25519")
	// Another key in the state, and nothing else that would betray it.
	p.sh(`cd "$1"/fleet-state/default/hosts && echo '` + foreign + `' >/tmp/foreign-key && fingerprint=$(ssh-keygen -lf /tmp/foreign-key | cut -d' ' -f2) &&
sed -i 's|"ssh-ed25519 [^"]*"|"` + foreign + `"|; s|"SHA256:[^"]*"|"'"$fingerprint"'"|' ` + h.Name + `.json`)
	p.commit()
	p.secrets("sync").want(5, h.Name, "SHA256:")
	p.has(false, "host/"+h.Name+"/token")
	// And the address of a machine that has it.
	p.write(map[string]hostSpec{h.Name: {Deploy: map[string]any{"address": attacker.Spec.Address}}})
	p.secrets("sync").want(5, h.Name, "SHA256:")
	p.has(false, "host/"+h.Name+"/token")
	// Or all of it in the flake.
	p.write(map[string]hostSpec{h.Name: {Deploy: map[string]any{"address": attacker.Spec.Address, "hostKeys": []string{foreign}}}})
	p.sh(`rm "$1"/fleet-state/default/hosts/` + h.Name + `.json`)
	p.commit()
	p.secrets("sync").want(5, h.Name, "SHA256:")
	p.has(false, "host/"+h.Name+"/token")
}

func TestAHostWithoutAKeyWaitsAndTheOthersGoOn(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {}, "unborn": {Deploy: map[string]any{"address": lab.Subnet + ".97"}}})
	s := &secretsProject{p, []*lab.Host{h}}
	s.declare(`{
  hosts.HOST1.nixos.secrets.token.generator = { mkPassword }: mkPassword { };
  hosts.unborn.nixos.secrets.token.generator = { mkPassword }: mkPassword { };
}`)
	s.secrets("host-key", "scan", "--on", h.Name).want(0)
	s.secrets("sync").want(0, "unborn", "host-key scan")
	s.has(true, "host/"+h.Name+"/token/meta.json")
	s.deploy("switch", "--on", h.Name).want(0)
}

func TestTwoOperatorsMakeOneSecretAndOneOfThemWins(t *testing.T) {
	h := take(t)
	p := newSecretsProject(t, `{ hosts.HOST1.nixos.secrets.token.generator = { mkPassword }: mkPassword { }; }`, h)
	p.commit()
	other := &project{t: t, operator: p.operator, dir: p.dir + "-other"}
	p.sh(`rm -rf "$1"-other && git clone --quiet "$1" "$1"-other`)
	for _, one := range []*project{p.project, other} {
		one.secrets("sync").want(0)
		one.commit()
	}
	p.sh(`cd "$1" && ! git pull --quiet --no-rebase "$1"-other HEAD`)
	p.secrets("status").want(5, "token", "conflict markers", "resolve")
	p.secrets("resolve", "--theirs", "token").want(0)
	p.commit()
	p.deploy("switch").want(0)
	if ours, theirs := p.secretsFiles(), other.secretsFiles(); ours != theirs {
		t.Errorf("what is left is not the other side's:\n%s\nwant\n%s", ours, theirs)
	}
	p.secrets("verify").want(0)
}

// secretsFiles are the files of all secrets, with the hash of their bytes.
func (p *project) secretsFiles() string {
	p.t.Helper()
	var files []string
	for line := range strings.Lines(p.state()) {
		if strings.Contains(line, "./secrets/") {
			files = append(files, line)
		}
	}
	return strings.Join(files, "")
}
