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
	results.add(v.image.efi, fault, phase, time.Since(since))
}

const guardIt = "fleet-helper guard --txn %s || sleep 1000"

// cutAtEach runs a transaction over and over, and cuts the power at another moment each time. begin starts it and returns the command that is to
// be cut.
func cutAtEach(t *testing.T, v *machine, system, what string, moments []cut, begin func(system string) (txn, command string)) string {
	for _, at := range moments {
		txn, command := begin(system)
		v.arm(at)
		moment := v.cutAt(command)
		if moment == "" {
			t.Fatalf("there is no moment %q", at)
		}
		since := time.Now()
		system, _ = v.up()
		v.recovered(txn, "power cut "+what+", at "+moment, since)
	}
	return system
}

func cutCommit(t *testing.T, v *machine, system string) string {
	return cutAtEach(t, v, system, "in a switch", append(numbers(26, "2", "10", "13", "18", "23", "26"), moments(v.image.efi)...), func(system string) (string, string) {
		txn := strings.TrimSpace(v.do("guest begin switch " + other(system)))
		return txn, fmt.Sprintf(guardIt, txn)
	})
}

func cutStaging(t *testing.T, v *machine, system string) string {
	return cutAtEach(t, v, system, "in a staging", append(numbers(9, "2", "5", "7"), moments(v.image.efi)...), func(system string) (string, string) {
		txn := strings.TrimSpace(v.do("guest begin reboot " + other(system)))
		return txn, fmt.Sprintf(guardIt, txn)
	})
}

func cutAfterBoot(t *testing.T, v *machine, system string) string {
	return cutAtEach(t, v, system, "after the new boot", append(numbers(21, "8"), moments(v.image.efi)[1]), func(system string) (string, string) {
		txn := strings.TrimSpace(v.do("guest begin reboot " + other(system)))
		v.start(fmt.Sprintf(guardIt, txn))
		v.expectUp(other(system))
		return txn, "fleet-helper boot-guard || sleep 1000"
	})
}
