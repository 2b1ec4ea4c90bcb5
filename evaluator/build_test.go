package evaluator_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"fleet/evaluator"
	"fleet/evaluator/plan"
)

// request evaluates a host and asks for its build.
func request(t *testing.T, n *evaluator.Nix, s evaluator.Snapshot, p *plan.Plan, host string) evaluator.BuildRequest {
	t.Helper()
	got, err := records(t.Context(), t, n, s, p, host)
	if err != nil || got[host].Err != nil {
		t.Fatal(err, got[host].Err)
	}
	return evaluator.BuildRequest{Fleet: "default", Host: host, System: *got[host].Record.System}
}

func TestBuildRootsWhatItBuilt(t *testing.T) {
	var state string
	n, events := newNix(t, copyFlake(t), func(o *evaluator.NixOptions) { state = o.StateDir })
	s, p := open(t, n)
	var group sync.WaitGroup
	// Both need the same derivation.
	for _, host := range []string{"web-1", "web-2"} {
		r := request(t, n, s, p, host)
		group.Go(func() {
			if err := n.Build(t.Context(), r); err != nil {
				t.Error(err)
			}
			if got, err := os.Readlink(filepath.Join(state, "gcroots", "default", r.Host)); err != nil || got != r.System.OutPath {
				t.Errorf("root of %s: %q, %v", r.Host, got, err)
			}
		})
	}
	group.Wait()
	logged := func(e plan.Event) bool { return e.Kind == plan.EventLog && e.Message == "shared> building shared" }
	if !events.find(logged) {
		t.Errorf("the build's log is missing: %v", events.events)
	}
	counted := func(e plan.Event) bool {
		return e.Kind == plan.EventProgress && e.Step == plan.StepBuild && e.Unit == "derivations" && e.Total > 0 && e.Done == e.Total
	}
	if !events.find(counted) {
		t.Errorf("no progress up to the end: %v", events.events)
	}
	if err := n.Build(t.Context(), request(t, n, s, p, "web-1")); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestBuildErrorHasTheFailedDerivationAndItsLog(t *testing.T) {
	var state string
	n, _ := newNix(t, copyFlake(t), func(o *evaluator.NixOptions) { state = o.StateDir })
	s, p := open(t, n)
	root := filepath.Join(state, "gcroots", "default", "failing")
	if err := os.MkdirAll(filepath.Dir(root), 0o700); err != nil {
		t.Fatal(err)
	}
	before := "/nix/store/00000000000000000000000000000000-before"
	if err := os.Symlink(before, root); err != nil {
		t.Fatal(err)
	}
	err := n.Build(t.Context(), request(t, n, s, p, "failing"))
	var failed *evaluator.BuildError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	if !strings.HasSuffix(failed.Drv, "-broken.drv") || !strings.Contains(hint(err), "nix log "+failed.Drv) {
		t.Errorf("derivation %q, hint %q", failed.Drv, hint(err))
	}
	if n := len(failed.LogTail); n != 25 || failed.LogTail[n-1] != "line 39" {
		t.Errorf("%d last lines: %q", n, failed.LogTail)
	}
	log, err := os.ReadFile(failed.LogFile)
	if err != nil || !strings.Contains(string(log), "broken> first line\nbroken> red line\n") {
		t.Errorf("log: %v\n%s", err, log)
	}
	if !strings.Contains(failed.Error(), "build host \"failing\": ") || strings.ContainsRune(failed.Error(), 0x1b) {
		t.Errorf("got %q", failed.Error())
	}
	if got, _ := os.Readlink(root); got != before {
		t.Errorf("the root changed to %q", got)
	}
}

func TestCancelledBuildLeavesNoProcess(t *testing.T) {
	var state string
	n, events := newNix(t, copyFlake(t), func(o *evaluator.NixOptions) { state = o.StateDir })
	s, p := open(t, n)
	r := request(t, n, s, p, "sleeping")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		events.wait(t, has(plan.EventLog, "sleeping", "> sleeping"))
		cancel()
	}()
	err := n.Build(ctx, r)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	noProcess(t, r.System.DrvPath)
	noProcess(t, "echo sleeping; sleep 1000")
	if logs, err := os.ReadDir(filepath.Join(state, "logs")); err != nil || len(logs) != 0 {
		t.Errorf("logs are left: %v, %v", logs, err)
	}
}

func TestHelperIsBuiltOnce(t *testing.T) {
	n, events := newNix(t, copyFlake(t), func(o *evaluator.NixOptions) { o.System = "x86_64-linux" })
	s, p := open(t, n)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			path, err := n.Helper(t.Context(), s, p, "x86_64-linux")
			if err != nil || path.Name() != "helper" {
				t.Errorf("got %v, %v", path, err)
			}
			if _, err := os.Stat(path.String()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	built := 0
	for _, e := range events.events {
		if e.Kind == plan.EventLog && strings.Contains(e.Message, "building helper") {
			built++
		}
	}
	if built > 1 {
		t.Errorf("built %d times", built)
	}
}

func TestHelperErrorsNameTheRemedy(t *testing.T) {
	dir := copyFlake(t)
	for _, c := range []struct{ operator, target, want, hint string }{
		{"x86_64-linux", "armv7l-linux", "the plan has none for this system", "aarch64-linux, riscv64-linux, x86_64-linux"},
		{"x86_64-linux", "aarch64-linux", "no packages.x86_64-linux.fleet-helper-aarch64-linux", `add "x86_64-linux" to systems`},
		{"aarch64-linux", "x86_64-linux", "no packages.aarch64-linux.fleet-helper-x86_64-linux", `add "aarch64-linux" to systems`},
		{"x86_64-linux", "riscv64-linux", "failed with exit code 3", "nix log"},
	} {
		n, _ := newNix(t, dir, func(o *evaluator.NixOptions) { o.System = c.operator })
		s, p := open(t, n)
		_, err := n.Helper(t.Context(), s, p, c.target)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(hint(err), c.hint) {
			t.Errorf("%s for %s: got %v, hint %q", c.operator, c.target, err, hint(err))
		}
	}
}
