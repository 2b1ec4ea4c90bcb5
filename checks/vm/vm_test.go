//go:build vm

// Package vm boots virtual machines, with real kernels and real boot loaders, and breaks what only a boot can show: kernels, initrds, inits. It cuts
// the power at every step. Without KVM a boot takes some seconds.
package vm

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/checks/section"
)

var updateReliability = flag.Bool("update-reliability", false, "write the table into docs/reliability.md")

// images are built once.
var images map[bool]image

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "fleet-vm")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		if err := prepare(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		text := results.String()
		fmt.Println("\n" + text)
		if *updateReliability && code == 0 {
			if err := section.Replace("../../docs/reliability.md", "boots", text); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return code
	}())
}

func prepare(dir string) error {
	if err := require(); err != nil {
		return err
	}
	programs := map[string]string{"guest": "./guest", "fleet-helper": "../../cmd/fleet-helper"}
	for name, from := range programs {
		build := exec.Command("go", "build", "-tags", "vm,faults", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), from)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	images = make(map[bool]image)
	for _, efi := range []bool{true, false} {
		m := image{dir: filepath.Join(dir, fmt.Sprintf("efi-%t", efi)), efi: efi, helper: filepath.Join(dir, "fleet-helper"), guest: filepath.Join(dir, "guest")}
		if err := m.build(); err != nil {
			return err
		}
		images[efi] = m
	}
	return nil
}

// table collects what was seen.
type table struct {
	mu   sync.Mutex
	rows []string
}

var results table

func (r *table) add(efi bool, fault, outcome string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	row := fmt.Sprintf("| %s | %s | %s | %.1f |", loaderName(efi), fault, outcome, took.Seconds())
	r.rows = append(r.rows, row)
	fmt.Println(row)
}

func (r *table) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.rows)
	return "| loader | fault | outcome | seconds |\n|---|---|---|---|\n" + strings.Join(r.rows, "\n") + "\n"
}

func loaderName(efi bool) string {
	if efi {
		return "systemd-boot"
	}
	return "GRUB"
}

// TestMachines breaks one machine of each kind, side by side. A test takes it as the one before has left it, as an operator would.
func TestMachines(t *testing.T) {
	for _, efi := range []bool{true, false} {
		t.Run(loaderName(efi), func(t *testing.T) {
			t.Parallel()
			v := newMachine(t, images[efi])
			v.power()
			system, _ := v.up()
			for _, test := range []struct {
				name string
				run  func(t *testing.T, v *machine, system string) string
			}{
				{"a staged system boots once", bootsOnce},
				{"an entry that counts boots", countsBoots},
				{"a broken system comes back by itself", comesBack},
				{"a boot that nobody confirms goes back", goesBack},
				{"the wall clock is set while a confirmation is waited for", setsClock},
				{"a power cut in a commit", cutCommit},
				{"a power cut in a staging", cutStaging},
				{"a power cut after the new system has booted", cutAfterBoot},
			} {
				if !t.Run(test.name, func(t *testing.T) {
					v.t = t
					system = test.run(t, v, system)
				}) {
					break // nobody knows what the machine is now
				}
			}
		})
	}
}

// bootsOnce also looks whether what was staged and taken back does not boot. Like all of them it returns the system that is up in the end.
func bootsOnce(t *testing.T, v *machine, system string) string {
	fresh := other(system)
	v.do("guest can-stage")
	if out := v.do("guest preflight " + fresh); out != "" {
		t.Errorf("pre-flight has found: %s", out)
	}
	v.do("guest stage " + fresh)
	v.reboot()
	results.add(v.image.efi, "none: the staged system boots", "new, once", v.expectUp(fresh))
	v.do("guest show")
	v.reboot()
	results.add(v.image.efi, "none: the boot after that", "old", v.expectUp(system))
	v.do("guest stage " + fresh)
	v.do("guest unstage " + fresh)
	v.reboot()
	v.expectUp(system)
	return system
}

// countsBoots is the second layer: the loader renames an entry while it boots it.
func countsBoots(_ *testing.T, v *machine, system string) string {
	if !v.image.efi {
		return system
	}
	v.do("echo 3 >/run/tries")
	v.do("guest stage " + other(system))
	v.reboot()
	results.add(true, "none: an entry that counts boots", "new, once", v.expectUp(other(system)))
	v.do("test -f /boot/loader/entries/nixos-fleet-generation-1+2-1.conf")
	v.do("guest unstage " + other(system))
	v.reboot()
	v.expectUp(system)
	return system
}

// comesBack reboots into systems that cannot be booted. Nobody touches the machine until the old one is up again.
func comesBack(t *testing.T, v *machine, system string) string {
	for _, k := range kinds()[2:] {
		broken := toplevel(k.name)
		if k.badKernel {
			// What the loader cannot even start does not come back, so it is not staged.
			out, err := v.try("guest stage " + broken)
			if err == nil || !strings.Contains(out, "cannot be booted") {
				t.Errorf("%s was staged: %s", k.name, out)
			}
			results.add(v.image.efi, "guarded reboot: "+k.name, "refused", 0)
			v.do("guest unstage " + broken)
			continue
		}
		txn := strings.TrimSpace(v.do("guest begin reboot " + broken))
		since := time.Now()
		v.start(fmt.Sprintf(guardIt, txn))
		v.expectUp(system)
		v.recovered(txn, "guarded reboot: "+k.name, since)
	}
	return system
}

// goesBack is R2: the default is the old system still.
func goesBack(_ *testing.T, v *machine, system string) string {
	txn := strings.TrimSpace(v.do("guest begin reboot " + other(system) + " 2"))
	v.start(fmt.Sprintf(guardIt, txn))
	v.expectUp(other(system))
	since := time.Now()
	v.start("fleet-helper boot-guard")
	v.expectUp(system)
	v.recovered(txn, "guarded reboot: not confirmed", since)
	return system
}

// setsClock steps the wall clock by a day, as a clock that was wrong is set by the network. The deadline is that of the clock of the boot: it neither passes
// at once nor moves away.
func setsClock(t *testing.T, v *machine, system string) string {
	const confirm, slack = 10, 2
	for _, step := range []string{"+ 86400", "- 86400"} {
		txn := strings.TrimSpace(v.do(fmt.Sprintf("guest begin switch %s %d", other(system), confirm)))
		since := time.Now()
		out := v.do(fmt.Sprintf(`fleet-helper guard --txn %s & until grep -q await-confirm /nix/var/fleet/txn-%[1]s.log; do usleep 20000; done; `+
			`date -s @$(($(date +%%s) %s)) >/dev/null; begin=$(cut -d. -f1 /proc/uptime); wait $!; echo waited $(($(cut -d. -f1 /proc/uptime) - begin))`, txn, step))
		var waited int
		if _, text, ok := strings.Cut(out, "waited "); !ok {
			t.Fatalf("no time in %s", out)
		} else if _, err := fmt.Sscan(text, &waited); err != nil {
			t.Fatal(err)
		}
		if waited < confirm-slack {
			t.Errorf("wall clock %s s: the confirmation was waited for for %d s", step, waited)
		}
		v.recovered(txn, "the wall clock is set by "+step+" s while a confirmation is waited for", since)
	}
	return system
}
