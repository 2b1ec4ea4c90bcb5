//go:build cluster

package cluster

import (
	"bytes"
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// secretsProject is a project whose fleet declares secrets: the text of a fleet module, in which HOST1, HOST2 … stand for the hosts' names.
type secretsProject struct {
	*project
	hosts []*lab.Host
}

func newSecretsProject(t *testing.T, module string, hosts ...*lab.Host) *secretsProject {
	t.Helper()
	for _, h := range hosts {
		// Another test's secrets are none of this fleet's, so that what is seen is what this one has made.
		on(t, h, "rm -rf /run/secret-test && mkdir /run/secret-test")
	}
	p := &secretsProject{newProject(t, each("secrets", hosts)), hosts}
	p.declare(module)
	p.secrets("host-key", "scan").want(0)
	return p
}

// declare replaces the module, and commits everything.
func (p *secretsProject) declare(module string) {
	p.t.Helper()
	for i, h := range p.hosts {
		module = strings.ReplaceAll(module, "HOST"+string(rune('1'+i)), h.Name)
	}
	if err := p.operator.PutReader(p.ctx(), strings.NewReader(module), p.dir+"/more.nix", 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.commit()
}

// commit commits whatever there is.
func (p *project) commit() {
	p.t.Helper()
	p.sh(`cd "$1" && git add --all && git commit --quiet --allow-empty --message secrets`)
}

// secrets runs a command on secrets, without a terminal.
func (p *project) secrets(args ...string) result {
	p.t.Helper()
	return p.fleet(append([]string{"secrets"}, args...)...)
}

// typed runs a command as a person at a terminal does. Only then may a deployment make secrets: somebody has to commit them.
func (p *project) typed(argv ...string) result {
	p.t.Helper()
	code, output := p.onTerminal(nil, argv...)
	return result{t: p.t, code: code, stdout: output}
}

// switchAll types a deployment of all hosts.
func (p *project) switchAll() result {
	p.t.Helper()
	return p.typed(helper, "deploy", "switch", "--yes")
}

// state is what is below fleet-state, every file with the hash of its bytes.
func (p *project) state() string {
	p.t.Helper()
	return p.sh(`cd "$1"/fleet-state/default && find . -type f -print0 | sort -z | xargs -0 sha256sum`)
}

// has fails the test where the state has no such file, or has one that it should not have. Names begin below fleet-state/default/secrets and may be patterns.
func (p *project) has(want bool, names ...string) {
	p.t.Helper()
	for _, name := range names {
		out := p.sh(`cd "$1"/fleet-state/default && find . -path './secrets/` + name + `'`)
		if (strings.TrimSpace(out) != "") != want {
			p.t.Errorf("the state has %s: %v, want %v", name, !want, want)
		}
	}
}

// hides fails the test where a value is to be found in what was printed or in the operator's flake. The value is given to grep on standard input.
func (p *project) hides(value string, printed ...result) {
	p.t.Helper()
	if len(value) < 8 {
		p.t.Fatalf("%q is no value to look for", value)
	}
	for _, r := range printed {
		if strings.Contains(r.stdout+r.stderr, value) {
			p.t.Errorf("a command printed the value of a secret:\n%s%s", r.stdout, r.stderr)
		}
	}
	cmd := p.command(p.ctx(), "grep", "--recursive", "--fixed-strings", "--file=-", "--files-with-matches", ".")
	cmd.Stdin = strings.NewReader(value)
	if out, err := cmd.Output(); err == nil || len(bytes.TrimSpace(out)) > 0 {
		p.t.Errorf("the flake holds the value of a secret: %s", out)
	}
}

// secretOf is the value of a secret's part on a host, for which the host's root is asked.
func secretOf(t *testing.T, h *lab.Host, file string) string {
	t.Helper()
	return on(t, h, "cat /run/secrets/"+file)
}
