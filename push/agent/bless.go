package agent

import (
	"fmt"
	"path/filepath"
)

// MayBless says why the present boot is not to be counted as good yet, where the boot loader counts boots; it returns nil where it is. A new system that was booted is
// good once it is confirmed: until then its boots go on being counted, and the boot loader gives up on it by itself should nobody of ours get to. Whoever cannot
// read the journal does not know better than the boot loader does.
func MayBless(host *Host) error {
	txn, _, e, err := host.openTxn()
	if err != nil || txn == "" || e.State.Confirmed || e.State.Phase.Ended() {
		return nil
	}
	booted := toplevelAt(filepath.Join(host.Run, "booted-system")).String()
	if booted != e.State.New && booted != e.State.Target {
		return nil
	}
	return fmt.Errorf("transaction %s is not confirmed: the boot is not good yet", txn)
}
