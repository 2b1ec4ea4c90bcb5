//go:build vm

// Package vm boots virtual machines, with real kernels and real boot loaders, and breaks what only a boot can show: kernels, initrds, inits. It cuts
// the power at every step. Without KVM a boot takes some seconds.
package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// images are built once.
var images map[bool]image

func TestMain(m *testing.M) {
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
		results.print()
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
	r.rows = append(r.rows, fmt.Sprintf("| %s | %s | %s | %.1f |", loaderName(efi), fault, outcome, took.Seconds()))
}

func (r *table) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.rows)
	fmt.Println("\n| loader | fault | outcome | seconds |\n|---|---|---|---|\n" + strings.Join(r.rows, "\n"))
}

func loaderName(efi bool) string {
	if efi {
		return "systemd-boot"
	}
	return "GRUB"
}

// both runs a test on both kinds of machine, side by side.
func both(t *testing.T, f func(t *testing.T, v *machine)) {
	for _, efi := range []bool{true, false} {
		t.Run(loaderName(efi), func(t *testing.T) {
			t.Parallel()
			f(t, newMachine(t, images[efi]))
		})
	}
}

func TestAStagedSystemBootsOnce(t *testing.T) {
	both(t, func(t *testing.T, v *machine) {
		v.power()
		v.expectUp("old")
		v.do("guest can-stage")
		if out := v.do("guest preflight " + toplevel("new")); out != "" {
			t.Errorf("pre-flight has found: %s", out)
		}
		v.do("guest stage " + toplevel("new"))
		v.reboot()
		results.add(v.image.efi, "none: the staged system boots", "new, once", v.expectUp("new"))
		v.do("guest show")
		v.reboot()
		results.add(v.image.efi, "none: the boot after that", "old", v.expectUp("old"))
		// What was staged and taken back does not boot.
		v.do("guest stage " + toplevel("new"))
		v.do("guest unstage " + toplevel("new"))
		v.reboot()
		v.expectUp("old")
		if !v.image.efi {
			return
		}
		// The second layer: an entry whose boots are counted, which the loader renames while it boots it.
		v.do("echo 3 >/run/tries")
		v.do("guest stage " + toplevel("new"))
		v.reboot()
		results.add(true, "none: an entry that counts boots", "new, once", v.expectUp("new"))
		v.do("test -f /boot/loader/entries/nixos-fleet-generation-1+2-1.conf")
	})
}

// A machine that a broken system was staged on comes back to the old one by itself, time and again.
func TestABrokenSystemComesBackByItself(t *testing.T) {
	both(t, func(t *testing.T, v *machine) {
		v.power()
		v.expectUp("old")
		for _, k := range kinds()[2:] {
			if k.badKernel {
				// What the loader cannot even start does not come back; it is not staged.
				if out, err := v.try("guest stage " + toplevel(k.name)); err == nil || !strings.Contains(out, "cannot be booted") {
					t.Errorf("%s was staged: %s", k.name, out)
				}
				results.add(v.image.efi, k.name, "refused", 0)
				v.do("guest unstage " + toplevel(k.name))
				continue
			}
			v.do("guest stage " + toplevel(k.name))
			v.reboot()
			results.add(v.image.efi, k.name, "old, by itself", v.expectUp("old"))
			v.do("guest unstage " + toplevel(k.name))
		}
	})
}
