package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/push/hostkeys"
	"fleet/secretsgen"
)

// TestAnInterruptedChangeSaysWhatIsInTheState: whoever presses Ctrl-C has to know what was saved, and what to commit.
func TestAnInterruptedChangeSaysWhatIsInTheState(t *testing.T) {
	dir := t.TempDir()
	run := run.RunnerFunc(run.Run)
	if err := run.Run(t.Context(), runGit(dir, "init", "-q")); err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(dir, "fleet-state", "default", "secrets", "shared", "x", "meta.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(meta), 0o755), os.WriteFile(meta, []byte("{}\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	store, err := hostkeys.Open(dir, "default", run)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	env := &cli.Env{Stdout: &stdout, Stderr: &stderr}
	o := &secretsOptions{global: &globals{fleet: "default"}}
	v := &vault{op: &operation{env: env, state: store}}
	report := &secretsgen.Report{Secrets: []secretsgen.Outcome{{ID: ids(t, "shared/x")[0], Action: secretsgen.ActionGenerate, Done: true, Why: "new value"}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	show, err := o.reported(ctx, env, v, report, context.Canceled)
	if err != nil || show == nil {
		t.Fatalf("the report is lost: %v", err)
	}
	err = show()
	if !errors.Is(err, context.Canceled) || !strings.Contains(stdout.String(), "generated") || !strings.Contains(stderr.String(), "fleet-state/default/secrets/shared/x") {
		t.Errorf("got %v\n%s\n%s", err, stdout.String(), stderr.String())
	}
	// What failed as a whole has nothing to show.
	if show, err := o.reported(t.Context(), env, v, report, os.ErrPermission); show != nil || !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

func runGit(dir string, args ...string) run.Cmd {
	return run.Cmd{Argv: append([]string{"git", "-C", dir}, args...)}
}
