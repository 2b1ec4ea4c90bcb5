//go:build cluster

package cluster

import (
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

// locked says whether an activation holds the host's lock.
func locked(t *testing.T, h *lab.Host) bool {
	t.Helper()
	_, err := h.Sh(t.Context(), "flock --nonblock /run/fleet/lock true")
	return err != nil
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
	r := (<-done).want(4, h.Name, string(endOld))
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
