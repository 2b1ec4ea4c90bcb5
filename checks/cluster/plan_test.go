//go:build cluster

package cluster

import (
	"testing"
)

func TestAStaticPlanDeploysWithoutAFlake(t *testing.T) {
	hosts := takeSome(t, 2)
	first, second := hosts[0], hosts[1]
	p := newProject(t, each("from a static plan", hosts))
	p.sh(`cd "$1" && /src/helper/bin/fleet-helper plan --json --with-records >/root/plan.json`)
	elsewhere := elsewhere(t, "/root/elsewhere")
	p.deploy("build").want(0) // the closures of a static plan exist already
	p.sh(`mv /root/plan.json /root/elsewhere/`)
	elsewhere.deploy("switch", "--plan", "plan.json", "--on", first.Name).want(0)
	if got := content(t, first); got != "from a static plan on "+first.Name {
		t.Errorf("the first host holds %q", got)
	}
	elsewhere.sh(`cat >"$1/shape.jsonnet" <<'EOF'
local plan = import 'plan.json';
local name = std.extVar('name');
plan {
  hosts: { [name]: plan.hosts[name] { deploy+: { address: std.extVar('address') } } },
  records: { [name]: plan.records[name] },
}
EOF`)
	elsewhere.deploy("switch", "--plan", "shape.jsonnet", "--ext-str", "name="+second.Name, "--ext-str", "address="+second.Spec.Address).want(0)
	if got := content(t, second); got != "from a static plan on "+second.Name {
		t.Errorf("the second host holds %q", got)
	}
}

func TestTheSystemsOwnSSHDeploysToo(t *testing.T) {
	hosts := takeSome(t, 2)
	p := newProject(t, map[string]hostSpec{
		hosts[0].Name: {Content: "through openssh", Deploy: map[string]any{"transport": "openssh"}},
		hosts[1].Name: {Content: "through openssh and sudo", Deploy: map[string]any{"transport": "openssh", "user": "sudoer"}},
	})
	p.deploy("switch").want(0)
	for i, want := range []string{"through openssh", "through openssh and sudo"} {
		if got := content(t, hosts[i]); got != want {
			t.Errorf("%s holds %q, want %q", hosts[i].Name, got, want)
		}
	}
}

func TestOutsideAFlakeNothingHappens(t *testing.T) {
	t.Parallel()
	elsewhere(t, "/root/no-flake").deploy("switch").want(2, "flake.nix", "--flake")
}

func TestStatusShowsWhatRunsAndWhatBoots(t *testing.T) {
	hosts := takeSome(t, 2)
	p := newProject(t, each("status", hosts))
	p.deploy("switch").want(0)
	p.fleet("status").want(0, hosts[0].Name, hosts[1].Name, "the same")
	p.fleet("status", "--json").want(0, runs(t, hosts[0]), runs(t, hosts[1]))
}
