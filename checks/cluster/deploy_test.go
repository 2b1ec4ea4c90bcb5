//go:build cluster

package cluster

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

// all are the standing hosts with a content each.
func all(content string) map[string]hostSpec {
	hosts := map[string]hostSpec{}
	for name := range standing {
		hosts[name] = hostSpec{Content: content + " on " + name, Tags: []string{"test"}}
	}
	return hosts
}

func TestSwitchDeploysEveryHostAndASecondRunChangesNothing(t *testing.T) {
	p := newProject(t, all("first"))
	p.run("nix", "run", ".#deploy", "--", "switch", "--yes").want(0, "alpha", "beta", "gamma")
	for name, h := range shared.hosts {
		if got, want := content(t, h), "first on "+name; got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
		if runs(t, h) != boots(t, h) {
			t.Errorf("%s runs %s but boots %s", name, runs(t, h), boots(t, h))
		}
		if got := on(t, h, "cat /run/cluster-test"); got != "first on "+name {
			t.Errorf("the unit of %s wrote %q", name, got)
		}
	}
	before := logins(t)
	second := p.deploy("switch", "--json").want(0, "unchanged")
	after := logins(t)
	for name := range shared.hosts {
		if n := after[name] - before[name]; n > 2 {
			t.Errorf("a run that changes nothing made %d SSH connections to %s, want at most 2", n, name)
		}
	}
	evaluation := second.evaluation()
	t.Logf("a run that changes nothing took %s, %s of it evaluation", second.took.Round(10*time.Millisecond), evaluation.Round(10*time.Millisecond))
	if rest := second.took - evaluation; rest > 3*time.Second {
		t.Errorf("a run that changes nothing took %s after evaluation, want less than 3 s", rest)
	}
}

// evaluation is how long Nix evaluated in a run with --json: the plan, and the slowest of the hosts, which go beside each other.
func (r result) evaluation() time.Duration {
	r.t.Helper()
	var plan, slowest float64
	for line := range strings.Lines(r.stdout) {
		var event struct {
			Type    string
			Step    string
			Seconds float64
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			r.t.Fatalf("%v in %s", err, line)
		}
		switch event.Step {
		case "plan":
			plan = event.Seconds
		case "evaluate":
			slowest = max(slowest, event.Seconds)
		}
	}
	if plan == 0 || slowest == 0 {
		r.t.Fatalf("no evaluation in\n%s", r.stdout)
	}
	return time.Duration((plan + slowest) * float64(time.Second))
}

// logins counts the SSH logins that each host has seen.
func logins(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for name, h := range shared.hosts {
		counts[name] = strings.Count(on(t, h, "journalctl --quiet --no-pager --boot --unit=ssh.service --grep='Accepted publickey' || true"), "Accepted publickey")
	}
	return counts
}

func TestADeployedHostRebootsIntoWhatWasDeployed(t *testing.T) {
	p := newProject(t, map[string]hostSpec{"alpha": {Content: "survives a reboot"}})
	p.deploy("switch").want(0)
	alpha := shared.hosts["alpha"]
	if err := alpha.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, alpha); got != "survives a reboot" {
		t.Errorf("after the reboot the host holds %q", got)
	}
	if got := on(t, alpha, "readlink -f /run/booted-system"); got != boots(t, alpha) {
		t.Errorf("booted %s, but the default is %s", got, boots(t, alpha))
	}
}

func TestActionsDoWhatTheyPromiseAndNoMore(t *testing.T) {
	alpha := shared.hosts["alpha"]
	p := newProject(t, map[string]hostSpec{"alpha": {Content: "base"}})
	p.deploy("switch").want(0)
	base := runs(t, alpha)
	for _, tt := range []struct {
		action                  string
		changesRun, changesBoot bool
	}{
		{"build", false, false},
		{"push", false, false},
		{"dry-activate", false, false},
		{"boot", false, true},
		{"test", true, false},
		{"switch", true, true},
	} {
		t.Run(tt.action, func(t *testing.T) {
			p.write(map[string]hostSpec{"alpha": {Content: "base"}})
			p.deploy("switch").want(0)
			p.write(map[string]hostSpec{"alpha": {Content: tt.action}})
			p.deploy(tt.action).want(0)
			if changed := runs(t, alpha) != base; changed != tt.changesRun {
				t.Errorf("the running system changed: %v, want %v", changed, tt.changesRun)
			}
			if changed := boots(t, alpha) != base; changed != tt.changesBoot {
				t.Errorf("the boot default changed: %v, want %v", changed, tt.changesBoot)
			}
		})
	}
}

func TestATestedSystemIsGoneAfterAReboot(t *testing.T) {
	alpha := shared.hosts["alpha"]
	p := newProject(t, map[string]hostSpec{"alpha": {Content: "kept"}})
	p.deploy("switch").want(0)
	p.write(map[string]hostSpec{"alpha": {Content: "tried"}})
	p.deploy("test").want(0)
	if got := content(t, alpha); got != "tried" {
		t.Fatalf("the host holds %q after test", got)
	}
	if err := alpha.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, alpha); got != "kept" {
		t.Errorf("the host holds %q after a reboot", got)
	}
}

func TestSwitchAfterBootOrTestDoesOnlyWhatIsMissing(t *testing.T) {
	alpha := shared.hosts["alpha"]
	p := newProject(t, map[string]hostSpec{"alpha": {Content: "half done by test"}})
	p.deploy("test").want(0)
	p.deploy("switch").want(0)
	if runs(t, alpha) != boots(t, alpha) {
		t.Errorf("runs %s, boots %s", runs(t, alpha), boots(t, alpha))
	}
	p.write(map[string]hostSpec{"alpha": {Content: "half done by boot"}})
	p.deploy("boot").want(0)
	p.deploy("switch").want(0)
	if runs(t, alpha) != boots(t, alpha) {
		t.Errorf("runs %s, boots %s", runs(t, alpha), boots(t, alpha))
	}
	p.deploy("switch").want(0, "unchanged")
}

func TestSpecialisationIsActivatedAndItsParentIsBooted(t *testing.T) {
	alpha := shared.hosts["alpha"]
	p := newProject(t, map[string]hostSpec{"alpha": {Content: "special", Specialisation: "night", Deploy: map[string]any{"specialisation": "night"}}})
	p.deploy("switch").want(0)
	if got := on(t, alpha, "cat /etc/specialised"); got != "night" {
		t.Errorf("the specialisation is not active: %q", got)
	}
	if want := boots(t, alpha) + "/specialisation/night"; on(t, alpha, "readlink -f "+want) != runs(t, alpha) {
		t.Errorf("runs %s, want the target of %s", runs(t, alpha), want)
	}
	p.deploy("switch").want(0, "unchanged")
}

func TestBuildOnTheTargetOrOnAnotherHost(t *testing.T) {
	p := newProject(t, map[string]hostSpec{
		"alpha": {Content: "built by itself " + time.Now().String(), Deploy: map[string]any{"buildOn": "target"}},
		"beta":  {Content: "built by gamma " + time.Now().String(), Deploy: map[string]any{"buildOn": "gamma"}},
		"gamma": {Content: "builder"},
	})
	p.deploy("switch", "--on", "alpha", "--on", "beta").want(0)
	for _, name := range []string{"alpha", "beta"} {
		if got := content(t, shared.hosts[name]); !strings.HasPrefix(got, "built by") {
			t.Errorf("%s holds %q", name, got)
		}
	}
	// The proof that the builder built: it has the derivation's output registered, and was not deployed.
	if out := on(t, shared.hosts["gamma"], "nix-store --query --deriver "+runs(t, shared.hosts["beta"])); !strings.HasSuffix(out, ".drv") {
		t.Errorf("gamma did not build beta's system: %s", out)
	}
}

func TestAnOlderNixOnTheTarget(t *testing.T) {
	old := boot(t, "old", lab.Spec{Address: lab.Subnet + ".31", Suite: "bookworm"})
	p := newProject(t, map[string]hostSpec{"old": {Content: "on Nix 2.8", Deploy: map[string]any{"address": old.Spec.Address}}})
	p.deploy("switch").want(0)
	if got := content(t, old); got != "on Nix 2.8" {
		t.Errorf("the host holds %q", got)
	}
}

func TestATargetWithoutANixDaemon(t *testing.T) {
	h := boot(t, "rootonly", lab.Spec{Address: lab.Subnet + ".32", NoDaemon: true})
	p := newProject(t, map[string]hostSpec{"rootonly": {Content: "no daemon", Deploy: map[string]any{"address": h.Spec.Address}}})
	p.deploy("switch").want(0)
	if got := content(t, h); got != "no daemon" {
		t.Errorf("the host holds %q", got)
	}
}

// boot brings up a host for one test, trusted by the operator.
func boot(t *testing.T, name string, spec lab.Spec) *lab.Host {
	t.Helper()
	h, err := shared.lab.Up(t.Context(), name, spec, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	key, err := h.HostKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shared.operator.Sh(t.Context(), `echo "$1" >>/root/.ssh/known_hosts`, spec.Address+" "+key); err != nil {
		t.Fatal(err)
	}
	return h
}
