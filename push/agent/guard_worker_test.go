package agent

import (
	"os"
	"path/filepath"
	"testing"

	"fleet/closure/run"
	"fleet/push/guard"
)

// A guard that dies just after it has started a worker leaves a process that nobody finds before it has its lock.
func TestAWorkerThatWasKilledBeforeItBeganDoesNothing(t *testing.T) {
	host := testHost(t)
	system := toplevel(t, host, "late")
	for _, tt := range []struct {
		name   string
		txn    string
		killed bool
	}{
		{"it runs where nobody has killed it", "t000001-aaaaaa", false},
		{"it does nothing where the next guard has", "t000002-aaaaaa", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.MkdirAll(host.txnDir(tt.txn), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := writeJSON(host.workerFile(tt.txn, workerOrder, 1), program{System: system, Verb: guard.VerbTest}); err != nil {
				t.Fatal(err)
			}
			if tt.killed {
				if err := host.killWorker(t.Context(), tt.txn, 1); err != nil {
					t.Fatal(err)
				}
			}
			worker := run.Cmd{Argv: []string{host.Helper, "guard-worker", "--txn", tt.txn, "--number", "1"}, Env: host.environment(), ClearEnv: true}
			if err := run.Run(t.Context(), worker); err != nil {
				t.Fatal(err)
			}
			calls, _ := os.ReadFile(filepath.Join(host.Run, "calls")) // not there where nothing ran
			if err := os.RemoveAll(filepath.Join(host.Run, "calls")); err != nil {
				t.Fatal(err)
			}
			if ran := len(calls) > 0; ran == tt.killed {
				t.Errorf("it ran: %v; calls: %s", ran, calls)
			}
		})
	}
}
