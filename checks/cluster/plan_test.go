//go:build cluster

package cluster

import (
	"testing"
)

func TestAStaticPlanDeploysWithoutAFlake(t *testing.T) {
	p := newProject(t, all("from a static plan"))
	p.sh(`cd "$1" && /src/helper/bin/fleet-helper plan --json --with-records >/root/plan.json`)
	p.deploy("build").want(0) // the closures of a static plan exist already
	p.sh(`mkdir -p /root/elsewhere && mv /root/plan.json /root/elsewhere/`)
	elsewhere := &project{t: t, dir: "/root/elsewhere"}
	elsewhere.deploy("switch", "--plan", "plan.json", "--on", "alpha").want(0)
	if got := content(t, shared.hosts["alpha"]); got != "from a static plan on alpha" {
		t.Errorf("alpha holds %q", got)
	}
	elsewhere.sh(`cat >"$1/shape.jsonnet" <<'EOF'
local plan = import 'plan.json';
plan {
  hosts: { beta: plan.hosts.beta { deploy+: { address: std.extVar('address') } } },
  records: { beta: plan.records.beta },
}
EOF`)
	elsewhere.deploy("switch", "--plan", "shape.jsonnet", "--ext-str", "address="+standing["beta"].Address).want(0)
	if got := content(t, shared.hosts["beta"]); got != "from a static plan on beta" {
		t.Errorf("beta holds %q", got)
	}
}

func TestTheSystemsOwnSSHDeploysToo(t *testing.T) {
	p := newProject(t, map[string]hostSpec{
		"alpha": {Content: "through openssh", Deploy: map[string]any{"transport": "openssh"}},
		"beta":  {Content: "through openssh and sudo", Deploy: map[string]any{"transport": "openssh", "user": "sudoer"}},
	})
	p.deploy("switch").want(0)
	for name, want := range map[string]string{"alpha": "through openssh", "beta": "through openssh and sudo"} {
		if got := content(t, shared.hosts[name]); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
}

func TestOutsideAFlakeNothingHappens(t *testing.T) {
	elsewhere := &project{t: t, dir: "/root/no-flake"}
	elsewhere.sh(`mkdir -p "$1"`)
	elsewhere.deploy("switch").want(2, "flake.nix", "--flake")
}

func TestStatusShowsWhatRunsAndWhatBoots(t *testing.T) {
	p := newProject(t, all("status"))
	p.deploy("switch").want(0)
	p.fleet("status").want(0, "alpha", "beta", "gamma")
	p.fleet("status", "--json").want(0, runs(t, shared.hosts["alpha"]))
}
