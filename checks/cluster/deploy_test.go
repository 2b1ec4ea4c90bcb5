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

// each gives hosts a content each.
func each(content string, hosts []*lab.Host) map[string]hostSpec {
	specs := map[string]hostSpec{}
	for _, h := range hosts {
		specs[h.Name] = hostSpec{Content: content + " on " + h.Name, Tags: []string{"test"}}
	}
	return specs
}

// trio are three standing hosts for a test that runs alone, because it measures, or is about the operator's whole machine.
func trio() []*lab.Host {
	return []*lab.Host{shared.hosts["alpha"], shared.hosts["beta"], shared.hosts["gamma"]}
}

func TestSwitchDeploysEveryHostAndASecondRunChangesNothing(t *testing.T) {
	p := newProject(t, each("first", trio()))
	p.run("nix", "run", ".#deploy", "--", "switch", "--yes").want(0, "alpha", "beta", "gamma")
	for _, h := range trio() {
		name := h.Name
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
	changesNothing(t, p, trio())
}

// changesNothing deploys what the hosts have already, within 3 s after evaluation and with at most 2 SSH connections each.
func changesNothing(t *testing.T, p *project, hosts []*lab.Host) {
	t.Helper()
	before := logins(t, hosts)
	r := p.deploy("switch", "--json").want(0, "unchanged")
	after := logins(t, hosts)
	for name := range after {
		if n := after[name] - before[name]; n > 2 {
			t.Errorf("a run that changes nothing made %d SSH connections to %s, want at most 2", n, name)
		}
	}
	evaluation := r.evaluation()
	t.Logf("a run that changes nothing took %s, %s of it evaluation", r.took.Round(10*time.Millisecond), evaluation.Round(10*time.Millisecond))
	if rest := r.took - evaluation; rest > 3*time.Second {
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
func logins(t *testing.T, hosts []*lab.Host) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, h := range hosts {
		counts[h.Name] = strings.Count(on(t, h, "journalctl --quiet --no-pager --boot --unit=ssh.service --grep='Accepted publickey' || true"), "Accepted publickey")
	}
	return counts
}

func TestADeployedHostRebootsIntoWhatWasDeployed(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "survives a reboot"}})
	p.deploy("switch").want(0)
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, h); got != "survives a reboot" {
		t.Errorf("after the reboot the host holds %q", got)
	}
	if got := on(t, h, "readlink -f /run/booted-system"); got != boots(t, h) {
		t.Errorf("booted %s, but the default is %s", got, boots(t, h))
	}
}

func TestActionsDoWhatTheyPromiseAndNoMore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		action                               string
		changesRun, changesNext, changesBoot bool
	}{
		{"build", false, false, false},
		{"push", false, false, false},
		{"dry-activate", false, false, false},
		// The default waits until the system has booted and is well.
		{"boot", false, true, false},
		{"test", true, false, false},
		{"switch", true, true, true},
	} {
		t.Run(tt.action, func(t *testing.T) {
			h := take(t)
			p := newProject(t, map[string]hostSpec{h.Name: {Content: "base"}})
			p.deploy("switch").want(0)
			base := runs(t, h)
			p.write(map[string]hostSpec{h.Name: {Content: tt.action}})
			p.deploy(tt.action).want(0)
			if changed := runs(t, h) != base; changed != tt.changesRun {
				t.Errorf("the running system changed: %v, want %v", changed, tt.changesRun)
			}
			if changed := bootsNext(t, h) != base; changed != tt.changesNext {
				t.Errorf("what the next boot brings changed: %v, want %v", changed, tt.changesNext)
			}
			if changed := boots(t, h) != base; changed != tt.changesBoot {
				t.Errorf("the boot default changed: %v, want %v", changed, tt.changesBoot)
			}
		})
	}
}

// Whoever looks after the boot of a guarded reboot is still there then.
func TestADeploymentRightAfterAGuardedReboot(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "base"}})
	p.deploy("switch").want(0)
	for _, round := range []string{"1", "2", "3"} {
		p.write(map[string]hostSpec{h.Name: {Content: "booted " + round}})
		p.deploy("reboot").want(0)
		p.write(map[string]hostSpec{h.Name: {Content: "switched " + round}})
		p.deploy("switch").want(0)
	}
	if got := content(t, h); got != "switched 3" {
		t.Errorf("the host holds %q", got)
	}
}

func TestATestedSystemIsGoneAfterAReboot(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "kept"}})
	p.deploy("switch").want(0)
	p.write(map[string]hostSpec{h.Name: {Content: "tried"}})
	p.deploy("test").want(0)
	if got := content(t, h); got != "tried" {
		t.Fatalf("the host holds %q after test", got)
	}
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, h); got != "kept" {
		t.Errorf("the host holds %q after a reboot", got)
	}
}

func TestSwitchAfterBootOrTestDoesOnlyWhatIsMissing(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "half done by test"}})
	p.deploy("test").want(0)
	p.deploy("switch").want(0)
	if runs(t, h) != boots(t, h) {
		t.Errorf("runs %s, boots %s", runs(t, h), boots(t, h))
	}
	p.write(map[string]hostSpec{h.Name: {Content: "half done by boot"}})
	p.deploy("boot").want(0)
	p.deploy("switch").want(0)
	if runs(t, h) != boots(t, h) {
		t.Errorf("runs %s, boots %s", runs(t, h), boots(t, h))
	}
	p.deploy("switch").want(0, "unchanged")
}

func TestSpecialisationIsActivatedAndItsParentIsBooted(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "special", Specialisation: "night", Deploy: map[string]any{"specialisation": "night"}}})
	p.deploy("switch").want(0)
	if got := on(t, h, "cat /etc/specialised"); got != "night" {
		t.Errorf("the specialisation is not active: %q", got)
	}
	if want := boots(t, h) + "/specialisation/night"; on(t, h, "readlink -f "+want) != runs(t, h) {
		t.Errorf("runs %s, want the target of %s", runs(t, h), want)
	}
	p.deploy("switch").want(0, "unchanged")
}

func TestBuildOnTheTargetOrOnAnotherHost(t *testing.T) {
	hosts := takeSome(t, 3)
	self, other, builder := hosts[0], hosts[1], hosts[2]
	p := newProject(t, map[string]hostSpec{
		self.Name:    {Content: "built by itself " + time.Now().String(), Deploy: map[string]any{"buildOn": "target"}},
		other.Name:   {Content: "built by another " + time.Now().String(), Deploy: map[string]any{"buildOn": builder.Name}},
		builder.Name: {Content: "builder"},
	})
	p.deploy("switch", "--on", self.Name, "--on", other.Name).want(0)
	for _, h := range []*lab.Host{self, other} {
		if got := content(t, h); !strings.HasPrefix(got, "built by") {
			t.Errorf("%s holds %q", h.Name, got)
		}
	}
	// The proof that the builder built: it has the derivation's output registered, and was not deployed.
	if out := on(t, builder, "nix-store --query --deriver "+runs(t, other)); !strings.HasSuffix(out, ".drv") {
		t.Errorf("%s did not build the system of %s: %s", builder.Name, other.Name, out)
	}
}

func TestAnOlderNixOnTheTarget(t *testing.T) {
	t.Parallel()
	old := boot(t, "old", lab.Spec{Address: lab.Subnet + ".31", Suite: "bookworm"})
	p := newProject(t, map[string]hostSpec{"old": {Content: "on Nix 2.8", Deploy: map[string]any{"address": old.Spec.Address}}})
	p.deploy("switch").want(0)
	if got := content(t, old); got != "on Nix 2.8" {
		t.Errorf("the host holds %q", got)
	}
}

func TestATargetWithoutANixDaemon(t *testing.T) {
	t.Parallel()
	h := boot(t, "rootonly", lab.Spec{Address: lab.Subnet + ".32", NoDaemon: true})
	p := newProject(t, map[string]hostSpec{"rootonly": {Content: "no daemon", Deploy: map[string]any{"address": h.Spec.Address}}})
	p.deploy("switch").want(0)
	if got := content(t, h); got != "no daemon" {
		t.Errorf("the host holds %q", got)
	}
}

// remove ends a host that was booted for one test. The test's own context has ended by then.
func remove(t *testing.T, h *lab.Host) {
	t.Helper()
	if err := h.Remove(context.Background()); err != nil {
		t.Error(err)
	}
}

// boot brings up a host for one test, trusted by the operator.
func boot(t *testing.T, name string, spec lab.Spec) *lab.Host {
	t.Helper()
	h, err := shared.lab.Up(t.Context(), name, spec, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, h) })
	key, err := h.HostKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shared.operator.Sh(t.Context(), `echo "$1" >>/root/.ssh/known_hosts`, spec.Address+" "+key); err != nil {
		t.Fatal(err)
	}
	return h
}
