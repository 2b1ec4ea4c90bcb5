//go:build cluster

package cluster

import (
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

// fault makes switch-to-configuration on the host fail on purpose, until lift is called; see checks/offline/README.md for the lines.
func fault(t *testing.T, h *lab.Host, lines string) (lift func()) {
	t.Helper()
	on(t, h, "mkdir -p /run/fleet-faults; printf '%s\n' '"+lines+"' >/run/fleet-faults/switch-to-configuration")
	return func() { on(t, h, "rm -r /run/fleet-faults") }
}

// locked says whether an activation holds the host's lock.
func locked(t *testing.T, h *lab.Host) bool {
	t.Helper()
	_, err := h.Sh(t.Context(), "flock --nonblock /run/fleet/lock true")
	return err != nil
}

func TestEveryEndOfSwitchToConfigurationIsTold(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "before the faults"}})
	p.deploy("switch").want(0)
	before := boots(t, h)
	p.write(map[string]hostSpec{h.Name: {Content: "after the faults"}})
	for _, tt := range []struct {
		name, fault string
		says        []string
		// runsNew: the new system runs, though nothing of it is kept.
		runsNew bool
	}{
		{"it refuses", "test exit 1", []string{"switch-to-configuration test refused", "exit status 1"}, false},
		{"an activation script fails", "test exit 2", []string{"an activation script failed", "exit status 2"}, false},
		{"systemd is too old for it", "test exit 100", []string{"needs a reboot", "deploy with boot", "exit status 100"}, false},
		{"it crashes", "test exit 101", []string{"crashed", "exit status 101"}, false},
		{"its boot loader fails", "boot exit 1", []string{"switch-to-configuration boot refused", "runs new, boots old"}, true},
	} {
		lift := fault(t, h, tt.fault)
		r := p.deploy("switch")
		lift()
		r.want(3, append(tt.says, h.Name)...)
		if got := boots(t, h); got != before {
			t.Errorf("%s: boots %s, want still %s", tt.name, got, before)
		}
		if got := runs(t, h); (got != before) != tt.runsNew {
			t.Errorf("%s: runs %s, before %s", tt.name, got, before)
		}
		if locked(t, h) {
			t.Errorf("%s: the lock is held", tt.name)
		}
	}
	p.deploy("switch").want(0)
	if runs(t, h) != boots(t, h) || content(t, h) != "after the faults" {
		t.Errorf("the next deployment left %q, runs %s, boots %s", content(t, h), runs(t, h), boots(t, h))
	}
}

func TestASwitchThatHangsAndIsKilledIsAFailure(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "before the hang"}})
	p.deploy("switch").want(0)
	before := boots(t, h)
	for _, tt := range []struct{ name, kill, says string }{
		{"switch-to-configuration", "pkill --signal KILL --full 'sleep infinity|switch-to-configuration test'", "killed by"},
		{"the worker with all of its unit", "systemctl kill --signal=KILL 'fleet-switch-*'", ""},
	} {
		p.write(map[string]hostSpec{h.Name: {Content: "never: " + tt.name}})
		lift := fault(t, h, "test hang")
		done := make(chan result, 1)
		go func() { done <- p.deploy("switch") }()
		waitFor(t, "the hanging switch", func() bool { return locked(t, h) && processes(t, h, "sleep infinity") > 0 })
		on(t, h, tt.kill)
		r := <-done
		lift()
		r.want(3, h.Name, tt.says)
		t.Logf("%s: %s", tt.name, r.stdout)
		if got := boots(t, h); got != before {
			t.Errorf("%s: boots %s, want still %s", tt.name, got, before)
		}
		if locked(t, h) {
			t.Errorf("%s: the lock is held", tt.name)
		}
	}
	p.write(map[string]hostSpec{h.Name: {Content: "after the hang"}})
	p.deploy("switch").want(0)
	if got := content(t, h); got != "after the hang" {
		t.Errorf("the next deployment left %q", got)
	}
}

func TestARebootInTheMiddleOfASwitchBringsTheOldSystemBack(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "before the reboot"}})
	p.deploy("switch").want(0)
	before := boots(t, h)
	p.write(map[string]hostSpec{h.Name: {Content: "interrupted by the reboot", SlowSeconds: 60}})
	done := make(chan result, 1)
	go func() { done <- p.deploy("switch") }()
	waitFor(t, "the new system", func() bool { return runs(t, h) != before })
	start := time.Now()
	if err := h.PowerCut(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	r := (<-done).want(3, h.Name)
	t.Logf("told %s after the power cut:\n%s", time.Since(start).Round(time.Second), r.stdout)
	if runs(t, h) != before || boots(t, h) != before || content(t, h) != "before the reboot" {
		t.Errorf("the host holds %q, runs %s, boots %s, want %s", content(t, h), runs(t, h), boots(t, h), before)
	}
	p.write(map[string]hostSpec{h.Name: {Content: "after the reboot"}})
	p.deploy("switch").want(0)
	if got := content(t, h); got != "after the reboot" {
		t.Errorf("the next deployment left %q", got)
	}
}
