//go:build cluster

package cluster

import "testing"

// example makes a project of one of the repository's examples, as a user who copies it has it.
func example(t *testing.T, name string) *project {
	t.Helper()
	p := &project{t: t, operator: shared.operator, dir: "/root/examples/" + name}
	if err := shared.operator.Project(t.Context(), "examples/"+name, p.dir); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheClusterExampleDeploysAsItIsWritten(t *testing.T) {
	p := example(t, "cluster") // its addresses are those of the standing hosts
	p.run("nix", "flake", "check").want(0)
	p.run("nix", "run", ".#deploy", "--", "--yes").want(0, "controlplane-1", "worker-1", "worker-2")
	for host, want := range map[string]string{"alpha": "controlplane-1", "beta": "worker-1", "gamma": "worker-2"} {
		if got := on(t, shared.hosts[host], "cat /etc/cluster/host"); got != want {
			t.Errorf("the host at %s calls itself %q, want %q", standing[host].Address, got, want)
		}
	}
	p.run("nix", "run", ".#fleet", "--", "status").want(0, "controlplane-1")
	// The user commits, and a later run says that nothing is left to do.
	p.sh(`cd "$1" && git add --all && git commit --quiet --allow-empty --message deployed`)
	p.run("nix", "run", ".#deploy", "--", "--yes").want(0, "unchanged")
}

func TestTheWireguardExampleEvaluates(t *testing.T) {
	t.Parallel()
	p := example(t, "wireguard")
	p.run("nix", "flake", "check").want(0)
	p.run("nix", "run", ".#fleet", "--", "hosts").want(0)
}

func TestTheTemplateEvaluates(t *testing.T) {
	t.Parallel()
	p := example(t, "template")
	p.run("nix", "run", ".#fleet", "--", "hosts").want(0)
}

// `make check` runs the evaluation tests with Debian 12's Nix; here they run with the one that operators have.
func TestTheEvaluationTestsPassWithTheNewerNix(t *testing.T) {
	for _, script := range []string{"run", "commands"} {
		if _, err := shared.operator.Sh(t.Context(), "/src/fleet/checks/nix/"+script); err != nil {
			t.Errorf("checks/nix/%s: %v", script, err)
		}
	}
}
