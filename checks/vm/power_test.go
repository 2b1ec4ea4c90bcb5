//go:build vm

package vm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cut is a moment at which the power goes: the number of one of the guard's own steps, or a moment of switch-to-configuration.
type cut string

// all says that every step is wanted, instead of those that leave something else on the disk.
func all() bool { return os.Getenv("FLEET_VM_ALL") == "1" }

// numbers are the cuts of all of the guard's steps up to a last one, or the chosen ones.
func numbers(last int, chosen ...cut) []cut {
	if !all() {
		return chosen
	}
	var cuts []cut
	for n := range last {
		cuts = append(cuts, cut(strconv.Itoa(n+1)))
	}
	return append(cuts, chosen...)
}

// moments are those of switch-to-configuration boot.
func moments(efi bool) []cut {
	if efi {
		return []cut{"entries-removed", "loader-tmp", "loader-conf", "boot-end"}
	}
	return []cut{"grub-tmp", "grub-cfg", "boot-end"}
}

// arm makes a machine say when it has come to the moment.
func (v *machine) arm(at cut) {
	v.t.Helper()
	if _, err := strconv.Atoi(string(at)); err != nil {
		v.do(fmt.Sprintf("rm -f /run/fault-trace /run/fault-at; echo %s >/run/cut", at))
		return
	}
	v.do("rm -f /run/cut; : >/run/fault-trace; echo " + string(at) + " >/run/fault-at")
	v.do(fmt.Sprintf(`(while [ "$(wc -l </run/fault-trace)" -lt %s ]; do usleep 2000; done; echo "VM cut $(tail -n 1 /run/fault-trace)" >/dev/ttyS0) &`, at))
}

// other is the system that a machine does not run.
func other(system string) string {
	if system == toplevel("new") {
		return toplevel("old")
	}
	return toplevel("new")
}

// recovered has the boot guard go on, and demands that the host is wholly old or wholly new.
func (v *machine) recovered(txn, fault string, since time.Time) {
	v.t.Helper()
	v.do("fleet-helper boot-guard")
	out, err := v.try("guest settled " + txn)
	if err != nil {
		v.t.Errorf("%s: %v\n%s", fault, err, v.do("cat /run/fleet/"+txn+"/*.log"))
		return
	}
	phase, _, _ := strings.Cut(strings.TrimSpace(out), " ")
	results.add(v.image.efi, "power cut: "+fault, phase, time.Since(since))
}

const guardIt = "fleet-helper guard --txn %s || sleep 1000"

// Each run begins with what the one before has left, as the operator of a host would.
func TestAPowerCutInACommitLeavesOldOrNew(t *testing.T) {
	both(t, func(t *testing.T, v *machine) {
		v.power()
		system, _ := v.up()
		for _, at := range append(numbers(26, "2", "5", "10", "13", "18", "21", "23", "26"), moments(v.image.efi)...) {
			txn := strings.TrimSpace(v.do("guest begin switch " + other(system)))
			v.arm(at)
			moment := v.cutAt(fmt.Sprintf(guardIt, txn))
			if moment == "" {
				t.Fatalf("there is no moment %q", at)
			}
			since := time.Now()
			system, _ = v.up()
			v.recovered(txn, "switch, at "+moment, since)
		}
	})
}

func TestAPowerCutInAStagingLeavesOldOrNew(t *testing.T) {
	both(t, func(t *testing.T, v *machine) {
		v.power()
		system, _ := v.up()
		for _, at := range append(numbers(9, "2", "5", "7", "9"), moments(v.image.efi)...) {
			txn := strings.TrimSpace(v.do("guest begin reboot " + other(system)))
			v.arm(at)
			moment := v.cutAt(fmt.Sprintf(guardIt, txn))
			if moment == "" {
				t.Fatalf("there is no moment %q", at)
			}
			since := time.Now()
			system, _ = v.up()
			v.recovered(txn, "staging, at "+moment, since)
		}
	})
}

func TestAPowerCutAfterTheNewSystemHasBootedLeavesOldOrNew(t *testing.T) {
	both(t, func(t *testing.T, v *machine) {
		v.power()
		system, _ := v.up()
		for _, at := range append(numbers(21, "2", "8", "13"), moments(v.image.efi)[1]) {
			fresh := other(system)
			txn := strings.TrimSpace(v.do("guest begin reboot " + fresh))
			v.start(fmt.Sprintf(guardIt, txn))
			if system, _ = v.up(); system != fresh {
				t.Fatalf("the machine has booted %s", system)
			}
			v.arm(at)
			moment := v.cutAt("fleet-helper boot-guard || sleep 1000")
			if moment == "" {
				t.Fatalf("there is no moment %q", at)
			}
			since := time.Now()
			system, _ = v.up()
			v.recovered(txn, "after the boot, at "+moment, since)
		}
	})
}

// A new system that nobody confirms goes by itself: R2, into the default.
func TestABootThatNobodyConfirmsGoesBack(t *testing.T) {
	both(t, func(t *testing.T, v *machine) {
		v.power()
		v.expectUp("old")
		txn := strings.TrimSpace(v.do("guest begin reboot " + toplevel("new") + " unconfirmed"))
		v.start(fmt.Sprintf(guardIt, txn))
		v.expectUp("new")
		since := time.Now()
		v.start("fleet-helper boot-guard")
		v.expectUp("old")
		v.do("fleet-helper boot-guard")
		v.do("guest settled " + txn)
		results.add(v.image.efi, "none: the new boot is not confirmed", "rolled-back", time.Since(since))
	})
}

// A guarded reboot into a system that cannot boot ends in the old one, and says so.
func TestAGuardedRebootIntoABrokenSystem(t *testing.T) {
	both(t, func(t *testing.T, v *machine) {
		v.power()
		v.expectUp("old")
		for _, name := range []string{"panics", "root-missing"} {
			txn := strings.TrimSpace(v.do("guest begin reboot " + toplevel(name)))
			since := time.Now()
			v.start(fmt.Sprintf(guardIt, txn))
			v.expectUp("old")
			v.recovered(txn, "none, guarded reboot: "+name, since)
		}
	})
}
