package evaluator_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/evaluator"
	"fleet/evaluator/plan"
)

// requireNix skips a test on a machine without nix, and fails it where everything is expected to be there.
func requireNix(t *testing.T) {
	t.Helper()
	for _, program := range []string{"nix", "nix-store", "git"} {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed", program)
	}
}

// recorder keeps events.
type recorder struct {
	mu     sync.Mutex
	events []plan.Event
	seen   chan struct{}
}

func newRecorder() *recorder { return &recorder{seen: make(chan struct{}, 1)} }

func (r *recorder) Emit(e plan.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	select {
	case r.seen <- struct{}{}:
	default:
	}
}

func (r *recorder) find(match func(plan.Event) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.events, match)
}

// wait blocks until an event matches.
func (r *recorder) wait(t *testing.T, match func(plan.Event) bool) {
	t.Helper()
	timeout := time.After(time.Minute)
	for !r.find(match) {
		select {
		case <-r.seen:
		case <-timeout:
			t.Fatalf("no such event; there were %v", r.events)
		}
	}
}

func has(kind plan.EventKind, host, text string) func(plan.Event) bool {
	return func(e plan.Event) bool {
		return e.Kind == kind && e.Host == host && strings.Contains(e.Message, text)
	}
}

// copyFlake makes a work tree of the test flake. Its text file is the test's own, so that no test finds what another one has built.
func copyFlake(t *testing.T) string {
	t.Helper()
	requireNix(t)
	dir := filepath.Join(t.TempDir(), "flake")
	if err := os.CopyFS(dir, os.DirFS("testdata/flake")); err != nil {
		t.Fatal(err)
	}
	unique := fmt.Sprintf("%x", time.Now().UnixNano())
	slices.Reverse([]byte(unique))
	writeFile(t, filepath.Join(dir, "text"), unique[len(unique)-8:]+unique)
	return dir
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-C", dir}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit makes a work tree a git repository with everything committed.
func commit(t *testing.T, dir string) {
	t.Helper()
	git(t, dir, "init", "-q")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "test")
}

func newNix(t *testing.T, dir string, change func(*evaluator.NixOptions)) (*evaluator.Nix, *recorder) {
	t.Helper()
	events := newRecorder()
	opts := evaluator.NixOptions{
		Dir: dir, StateDir: filepath.Join(t.TempDir(), "state"), Reporter: events,
		Settings: []evaluator.Setting{{Name: "substitute", Value: "false"}, {Name: "sandbox", Value: "false"}},
	}
	if change != nil {
		change(&opts)
	}
	n, err := evaluator.NewNix(opts)
	if err != nil {
		t.Fatal(err)
	}
	return n, events
}

// open takes a snapshot and reads the plan.
func open(t *testing.T, n *evaluator.Nix) (evaluator.Snapshot, *plan.Plan) {
	t.Helper()
	s, err := n.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := n.Plan(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// records evaluates hosts and returns the results by name.
func records(ctx context.Context, t *testing.T, n *evaluator.Nix, s evaluator.Snapshot, p *plan.Plan, hosts ...string) (map[string]evaluator.RecordResult, error) {
	t.Helper()
	var mu sync.Mutex
	results := map[string]evaluator.RecordResult{}
	err := n.Records(ctx, s, p, hosts, func(r evaluator.RecordResult) {
		mu.Lock()
		defer mu.Unlock()
		if _, twice := results[r.Host]; twice {
			t.Errorf("host %q was reported twice", r.Host)
		}
		results[r.Host] = r
	})
	return results, err
}

// hint returns an error's remedy.
func hint(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

func nixCommand(args ...string) *exec.Cmd {
	return exec.Command("nix", append([]string{"--extra-experimental-features", "nix-command flakes"}, args...)...)
}
