package agent

import (
	"os"
	"path/filepath"
	"testing"

	"fleet/closure/storetest"
	"fleet/push/guard"
)

func TestABootIsGoodOnceItIsConfirmed(t *testing.T) {
	storetest.RequireNix(t)
	requireRoot(t)
	stubs := testHost(t)
	before, after := toplevel(t, stubs, "before"), toplevel(t, stubs, "after")
	const txn = "t000001-aaaaaa"
	for name, tc := range map[string]struct {
		booted string
		state  guard.State
		open   bool
		good   bool
	}{
		"nothing is open":                  {booted: after, good: true},
		"a new system is tried":            {booted: after, state: guard.State{Phase: guard.Judging}, open: true},
		"it waits to be confirmed":         {booted: after, state: guard.State{Phase: guard.AwaitConfirm}, open: true},
		"it is being taken back":           {booted: after, state: guard.State{Phase: guard.RollbackReboot}, open: true},
		"it is confirmed":                  {booted: after, state: guard.State{Phase: guard.Committing, Confirmed: true}, open: true, good: true},
		"it was committed":                 {booted: after, state: guard.State{Phase: guard.Committed, Confirmed: true}, open: true, good: true},
		"the old system has come up again": {booted: before, state: guard.State{Phase: guard.Rebooting}, open: true, good: true},
	} {
		t.Run(name, func(t *testing.T) {
			host := testHost(t)
			if err := os.Symlink(tc.booted, filepath.Join(host.Run, "booted-system")); err != nil {
				t.Fatal(err)
			}
			if tc.open {
				tc.state.New, tc.state.Target = after, after
				if err := os.MkdirAll(filepath.Dir(host.journalPath(txn)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := host.makeTxnDir(txn); err != nil {
					t.Fatal(err)
				}
				j, err := createJournal(realDisk{}, host.journalPath(txn), host.shadowPath(txn), opening{Txn: txn}, tc.state)
				if err != nil {
					t.Fatal(err)
				}
				if err := j.close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := MayBless(host); (err == nil) != tc.good {
				t.Errorf("good: %v, want %v", err, tc.good)
			}
		})
	}
}
