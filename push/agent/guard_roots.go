package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"fleet/closure/storepath"
	"fleet/push/guard"
)

const (
	// txnRoots begin with this name, then comes the transaction's, then what they keep.
	txnRoots = ".txn-"
	lastGood = ".last-good"
)

// keepRoots protects from garbage collection whatever the transaction may need to go on or to go back.
func (h *Host) keepRoots(txn string, systems guard.Systems, toplevel string) error {
	if err := os.MkdirAll(h.rootsDir(), 0o755); err != nil {
		return err
	}
	for what, path := range map[string]string{
		"profile": systems.Profile, "current": systems.Current, "booted": systems.Booted, "default": systems.BootDefault, "new": toplevel,
		"helper": storeRoot(h.Helper),
	} {
		if path == "" {
			continue
		}
		if err := replaceLink(path, filepath.Join(h.rootsDir(), txnRoots+txn+"-"+what)); err != nil {
			return err
		}
	}
	return syncFolder(h.rootsDir())
}

// storeRoot is the store path that a file lies in, and empty where it lies in none.
func storeRoot(file string) string {
	path, err := storepath.Containing(file)
	if err != nil {
		return ""
	}
	return path.String()
}

// dropRoots is best effort: what stays is dropped with the next transaction.
func (h *Host) dropRoots(txn string) {
	roots, err := filepath.Glob(filepath.Join(h.rootsDir(), txnRoots+txn+"-*"))
	if err != nil {
		return
	}
	for _, root := range roots {
		_ = os.Remove(root)
	}
}

// dropStaleRoots drops those of all transactions that are not open.
func (h *Host) dropStaleRoots(open string) {
	roots, err := filepath.Glob(filepath.Join(h.rootsDir(), txnRoots+"*"))
	if err != nil {
		return
	}
	for _, root := range roots {
		if name := strings.TrimPrefix(filepath.Base(root), txnRoots); open == "" || !strings.HasPrefix(name, open+"-") {
			_ = os.Remove(root)
		}
	}
}

// keepGood remembers the system that a transaction has left behind, verified.
func (h *Host) keepGood(s guard.State) {
	good := s.New
	switch s.Phase {
	case guard.Committed:
	case guard.RolledBack:
		good = oldDefaultOf(s.Old)
	default:
		return
	}
	if good == "" {
		return
	}
	err := os.MkdirAll(h.rootsDir(), 0o755)
	if err = errors.Join(err, replaceLink(good, filepath.Join(h.rootsDir(), lastGood))); err != nil {
		return // the profile keeps it, too
	}
}
