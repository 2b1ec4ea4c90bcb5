//go:build cluster

package cluster

import (
	"strings"
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

func TestAnEvaluationErrorStaysWithItsHost(t *testing.T) {
	hosts := takeSome(t, 3)
	specs := each("others go on", hosts)
	specs[hosts[0].Name] = hostSpec{EvalError: true}
	p := newProject(t, specs)
	p.deploy("switch").want(3, hosts[0].Name, "this host is broken on purpose")
	for _, h := range hosts[1:] {
		if got := content(t, h); got != "others go on on "+h.Name {
			t.Errorf("%s holds %q", h.Name, got)
		}
	}
}

func TestAFailingBuildStaysWithItsHost(t *testing.T) {
	hosts := takeSome(t, 3)
	specs := each("built", hosts)
	specs[hosts[0].Name] = hostSpec{BuildFails: true}
	p := newProject(t, specs)
	p.deploy("switch").want(3, hosts[0].Name, "line 7 does not compile", "nix log")
	for _, h := range hosts[1:] {
		if got := content(t, h); got != "built on "+h.Name {
			t.Errorf("%s holds %q", h.Name, got)
		}
	}
}

func TestFailFastStopsTheOthersBeforeTheyActivate(t *testing.T) {
	hosts := takeSome(t, 3)
	specs := map[string]hostSpec{hosts[0].Name: {EvalError: true}}
	before := map[*lab.Host]string{}
	for _, h := range hosts[1:] {
		specs[h.Name] = hostSpec{Content: "must not arrive", BallastMiB: 64}
		before[h] = content(t, h)
	}
	p := newProject(t, specs)
	p.deploy("switch", "--fail-fast").want(3, hosts[0].Name)
	for h, want := range before {
		if got := content(t, h); got != want {
			t.Errorf("%s holds %q, want still %q", h.Name, got, want)
		}
	}
}

func TestAnUnreachableHostIsNamedAndOthersGoOn(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "reachable"}, "nobody": {Deploy: map[string]any{"address": lab.Subnet + ".99"}}})
	p.deploy("switch").want(3, "nobody", lab.Subnet+".99")
	if got := content(t, h); got != "reachable" {
		t.Errorf("the host holds %q", got)
	}
}

func TestAHostKeyIsNeverTrustedSilently(t *testing.T) {
	t.Parallel()
	h, err := shared.lab.Up(t.Context(), "fresh", lab.Spec{Address: lab.Subnet + ".33"}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]hostSpec{"fresh": {Content: "pinned", Deploy: map[string]any{"address": h.Spec.Address}}}
	p := newProject(t, hosts)
	p.deploy("switch").want(3, "fresh", "SHA256:", "--accept-new-host-keys")
	p.deploy("switch", "--accept-new-host-keys").want(0, "commit these files", "fleet-state/default/hosts/fresh.json")
	if state := p.sh(`cat "$1"/fleet-state/default/hosts/fresh.json`); !strings.Contains(state, "ssh-ed25519") || !strings.Contains(state, "accepted") {
		t.Errorf("the key was not pinned: %s", state)
	}
	p.deploy("switch").want(0, "unchanged")

	// A machine in the middle: another key answers at the same address.
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h, err = shared.lab.Up(t.Context(), "fresh", lab.Spec{Address: lab.Subnet + ".33"}, func(string) {}); err != nil {
		t.Fatal(err)
	}
	defer h.Remove(t.Context())
	p.deploy("switch", "--accept-new-host-keys").want(3, "fresh", "changed")
	if got := on(t, h, "ls /nix/store | wc -l"); got != "0" {
		t.Errorf("something was sent to a host with a changed key: %s paths", got)
	}
}

func TestAHostWithoutNixIsRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	h := boot(t, "nonix", lab.Spec{Address: lab.Subnet + ".34", NoNix: true})
	p := newProject(t, map[string]hostSpec{"nonix": {Deploy: map[string]any{"address": h.Spec.Address}}})
	p.deploy("switch").want(3, "nonix", "/nix/var/nix")
	if got := on(t, h, "find /nix | wc -l"); got != "1" {
		t.Errorf("something was left in /nix: %s", on(t, h, "find /nix"))
	}
}

func TestAFullStoreIsReportedWithSizes(t *testing.T) {
	t.Parallel()
	h := boot(t, "small", lab.Spec{Address: lab.Subnet + ".35", StoreSize: "96m"})
	p := newProject(t, map[string]hostSpec{"small": {BallastMiB: 120, Deploy: map[string]any{"address": h.Spec.Address}}})
	p.deploy("switch").want(3, "small", "full")
	p.write(map[string]hostSpec{"small": {Content: "fits", Deploy: map[string]any{"address": h.Spec.Address}}})
	p.deploy("switch").want(0)
	if got := content(t, h); got != "fits" {
		t.Errorf("the host holds %q", got)
	}
}

func TestAFailedUnitLeavesTheOldSystemAsTheBootDefault(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "good"}})
	p.deploy("switch").want(0)
	good := runs(t, h)
	p.write(map[string]hostSpec{h.Name: {Content: "bad", UnitFails: true}})
	p.deploy("switch").want(4, "cluster-test.service", "the unit is broken on purpose", string(endOld))
	if got := runs(t, h); got != good {
		t.Errorf("runs %s, want again %s", got, good)
	}
	if got := boots(t, h); got != good {
		t.Errorf("boots %s, want still %s", got, good)
	}
	if got := on(t, h, "readlink -f /nix/var/nix/profiles/system"); got != good {
		t.Errorf("the profile is %s, want still %s", got, good)
	}
	p.write(map[string]hostSpec{h.Name: {Content: "good"}})
	p.deploy("switch").want(0)
}

func TestASecondOperatorIsToldWhoHoldsTheLock(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "slow", SlowSeconds: 8}})
	p.deploy("push").want(0)
	first := make(chan result, 1)
	go func() { first <- p.deploy("switch") }()
	waitFor(t, "the first operator's activation", func() bool {
		_, err := h.Sh(t.Context(), "! flock --nonblock /run/fleet/lock true")
		return err == nil
	})
	other := &project{t: t, operator: p.operator, dir: p.dir + "-other"}
	other.sh(`rm -rf "$1" && cp -r ` + baseProject + ` "$1"`)
	other.write(map[string]hostSpec{h.Name: {Content: "other"}})
	other.deploy("switch").want(6, h.Name, "root@operator")
	(<-first).want(0)
	if got := content(t, h); got != "slow" {
		t.Errorf("the host holds %q", got)
	}
}

func TestInterruptBeforeActivationLeavesNothingBehind(t *testing.T) {
	alpha := shared.hosts["alpha"]
	p := newProject(t, map[string]hostSpec{"alpha": {Content: "never", BallastMiB: 200}})
	p.deploy("build").want(0)
	if err := alpha.Limit(t.Context(), "20mbit"); err != nil {
		t.Fatal(err)
	}
	defer alpha.Limit(t.Context(), "")
	before := content(t, alpha)
	cmd := p.command(t.Context(), helper, "deploy", "switch", "--yes")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the push", func() bool { return processes(t, alpha, "fleet-helper attach") > 0 })
	time.Sleep(2 * time.Second) // into the middle of 200 MiB at 20 Mbit/s
	p.signal("INT")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130\n%s", code, out.String())
	}
	waitFor(t, "no process of ours on the host", func() bool { return processes(t, alpha, "fleet-helper") == 0 })
	if n := processes(t, shared.operator.Host, "fleet-helper|ssh |nix[ -](eval|build|store)"); n != 0 {
		t.Errorf("%d processes are left on the operator's machine", n)
	}
	if got := content(t, alpha); got != before {
		t.Errorf("alpha holds %q, want still %q", got, before)
	}
}

func TestInterruptDuringActivationDetaches(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "detached", SlowSeconds: 6}})
	p.deploy("push").want(0)
	cmd := p.command(t.Context(), helper, "deploy", "switch", "--yes")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the activation", func() bool {
		_, err := h.Sh(t.Context(), "! flock --nonblock /run/fleet/lock true")
		return err == nil
	})
	p.signal("INT")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130\n%s", code, out.String())
	}
	if !strings.Contains(out.String(), "attach "+h.Name) {
		t.Errorf("the command that attaches is not printed:\n%s", out.String())
	}
	// What was to be confirmed by us is confirmed by whoever comes.
	waitFor(t, "the wait for a confirmation", func() bool {
		_, r := newestTxn(h)
		return r.State.Phase == awaitConfirm
	})
	p.fleet("confirm", h.Name).want(0, string(endNew))
	p.fleet("attach", h.Name).want(0)
	if got := content(t, h); got != "detached" {
		t.Errorf("the host holds %q", got)
	}
	if runs(t, h) != boots(t, h) {
		t.Errorf("runs %s, boots %s", runs(t, h), boots(t, h))
	}
}

func TestAPushGoesOnAfterTheLinkWasCut(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "after the cut", BallastMiB: 40}})
	p.deploy("build").want(0)
	if err := h.Limit(t.Context(), "40mbit"); err != nil {
		t.Fatal(err)
	}
	defer h.Limit(t.Context(), "")
	done := make(chan result, 1)
	go func() { done <- p.deploy("switch") }()
	waitFor(t, "the push", func() bool { return processes(t, h, "fleet-helper attach") > 0 })
	time.Sleep(2 * time.Second)
	// Both ends of the connection die at once, as after a change of network.
	on(t, h, "pkill --signal KILL --full 'sshd-session|sshd: root@'")
	(<-done).want(0)
	if got := content(t, h); got != "after the cut" {
		t.Errorf("the host holds %q", got)
	}
}

func TestTheActivationIsFollowedThroughALostLink(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "through the cut", SlowSeconds: 8}})
	p.deploy("push").want(0)
	done := make(chan result, 1)
	go func() { done <- p.deploy("switch") }()
	waitFor(t, "the activation", func() bool {
		_, err := h.Sh(t.Context(), "! flock --nonblock /run/fleet/lock true")
		return err == nil
	})
	on(t, h, "pkill --signal KILL --full 'sshd-session|sshd: root@'")
	(<-done).want(0)
	if got := content(t, h); got != "through the cut" {
		t.Errorf("the host holds %q", got)
	}
}

// processes counts the processes whose command line matches.
func processes(t *testing.T, h *lab.Host, pattern string) int {
	t.Helper()
	out := on(t, h, "pgrep --full --list-full '"+pattern+"' | grep -v pgrep || true")
	if out == "" {
		return 0
	}
	return strings.Count(out, "\n") + 1
}

// signal sends a signal to the helper that runs in the project's folder; INT is Ctrl-C.
func (p *project) signal(name string) {
	p.t.Helper()
	p.sh(`for pid in $(pgrep --exact fleet-helper); do
  if [ "$(readlink /proc/$pid/cwd)" = "$1" ]; then kill -` + name + ` "$pid"; fi
done`)
}

// waitFor polls what another machine shows; there is no event to wait for across its kernel's boundary.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
