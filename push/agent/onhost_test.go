//go:build cluster

package agent

import (
	"context"
	"os"
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

func superviseLab() bool { return lab.Supervise() }

// TestOnAHostWithSystemd runs the tests of units where systemd is PID 1: on a host of the testbed.
func TestOnAHostWithSystemd(t *testing.T) {
	if os.Getenv(onHost) != "" {
		return
	}
	say := func(line string) { t.Log(line) }
	if _, err := lab.EnsureImage(t.Context(), lab.StateDir(), "trixie", say); err != nil {
		t.Fatal(err)
	}
	l, err := lab.Open("agent", "../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.RemoveOnInterrupt())
	if err := l.Down(t.Context()); err != nil { // what an earlier run left
		t.Fatal(err)
	}
	if err := l.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	host, err := l.Up(t.Context(), "systemd", lab.Spec{Address: lab.Subnet + ".41"}, say)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Put(t.Context(), self, "/root/agent.test", 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := host.Exec(t.Context(), "env", onHost+"=1", "/root/agent.test", "-test.run=^TestSystemd", "-test.v")
	t.Log(out)
	if err != nil || strings.Contains(out, "--- SKIP") || !strings.Contains(out, "--- PASS") {
		t.Error(err)
	}
}
