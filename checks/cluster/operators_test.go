//go:build cluster

package cluster

import (
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// secondOperator boots another operator's machine, which knows the same hosts.
func secondOperator(t *testing.T, name string, spec lab.Spec, hosts ...*lab.Host) *lab.Operator {
	t.Helper()
	o, err := shared.lab.UpOperator(t.Context(), name, spec, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, o.Host) })
	if err := o.Trust(t.Context(), hosts...); err != nil {
		t.Fatal(err)
	}
	if err := o.Project(t.Context(), "checks/cluster/testdata/flake", baseProject); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAnotherOperatorAttachesAndDeploysTheirOwnMachine(t *testing.T) {
	h := take(t)
	o := secondOperator(t, "laptop", lab.Spec{Address: lab.Subnet + ".3"}, h)
	specs := map[string]hostSpec{h.Name: {Content: "watched by another", SlowSeconds: 6}, o.Name: {Content: "their own", Deploy: map[string]any{"address": "local"}}}
	first, second := newProject(t, specs), newProjectAt(t, o, specs)

	first.deploy("push", "--on", h.Name).want(0)
	done := make(chan result, 1)
	go func() { done <- first.deploy("switch", "--on", h.Name) }()
	waitFor(t, "the activation", func() bool { return locked(t, h) })
	second.run("nix", "run", ".#fleet", "--", "attach", h.Name).want(0, "root@operator", "starting the following units", "switched")
	(<-done).want(0)

	// The machine that deploys is one of the fleet: no SSH, and no helper that has to be sent.
	second.deploy("test", "--on", o.Name).want(0)
	if got := content(t, o.Host); got != "their own" || boots(t, o.Host) == runs(t, o.Host) {
		t.Errorf("after test the machine holds %q, runs %s, boots %s", got, runs(t, o.Host), boots(t, o.Host))
	}
	second.deploy("switch", "--on", o.Name).want(0)
	if boots(t, o.Host) != runs(t, o.Host) {
		t.Errorf("after switch the machine runs %s, boots %s", runs(t, o.Host), boots(t, o.Host))
	}
	second.deploy("switch", "--on", o.Name).want(0, "unchanged")
	second.fleet("status").want(0, h.Name, o.Name)
	if out := on(t, o.Host, "journalctl --quiet --no-pager --boot --unit=ssh.service"); strings.Contains(out, "Accepted") {
		t.Errorf("the machine logged in to itself:\n%s", out)
	}
}

func TestAnOperatorWithAnOlderNix(t *testing.T) {
	h := take(t)
	o := secondOperator(t, "elderly", lab.Spec{Address: lab.Subnet + ".4", Suite: "bookworm"}, h)
	p := newProjectAt(t, o, map[string]hostSpec{h.Name: {Content: "from Nix 2.8"}})
	p.run("nix", "run", ".#deploy", "--", "switch", "--yes").want(0, h.Name)
	if got := content(t, h); got != "from Nix 2.8" {
		t.Errorf("the host holds %q", got)
	}
	p.deploy("switch").want(0, "unchanged")
}
