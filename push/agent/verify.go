package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fleet/push/guard"
)

// guardSystems is what a host runs and boots, as the guard writes it down.
type guardSystems = guard.Systems

// seen is what the host runs and boots now.
func (h *Host) seen() guard.Systems {
	s := h.systems()
	return guard.Systems{
		Current: s.current.String(), Booted: s.booted.String(), Profile: s.profile.String(), Generation: s.generation,
		BootDefault: s.boot.Toplevel.String(),
	}
}

// defaultOf is what booted by default before the transaction, as far as that was known.
func oldDefaultOf(old guard.Systems) string {
	if old.BootDefault != "" {
		return old.BootDefault
	}
	return old.Profile
}

// verifyNew says why profile and boot default are not the new system.
func (h *Host) verifyNew(toplevel string) error {
	if have := h.systems().profile.String(); have != toplevel {
		return fmt.Errorf("the system profile leads to %q after it was set", have)
	}
	return h.Loader().Verify(toplevel)
}

// verifyOld says why the host does not run and boot what it did. Units of the old system that do not run are started.
func (h *Host) verifyOld(ctx context.Context, s guard.State, baseline Baseline, ignore []string, log func(string)) error {
	if s.NewBoot {
		if err := h.waitBooted(ctx); err != nil {
			return err
		}
	}
	if err := h.verifySystems(s); err != nil {
		return err
	}
	problems := h.RestoreUnits(ctx, baseline, ignore, log)
	for i, name := range problems {
		problems[i] = "unit " + name + " ran before and does not run"
	}
	missing := h.SSHMissing(baseline)
	for _, port := range missing {
		problems = append(problems, fmt.Sprintf("no SSH server listens on port %d any more", port))
	}
	emergency, _ := h.Units.Running(ctx, emergencyTarget) // where systemd does not answer, its units were not there either
	if emergency {
		problems = append(problems, "the host is in its emergency mode")
	}
	if len(problems) == 0 {
		return nil
	}
	text := strings.Join(problems, "; ")
	log(text)
	// A unit that the new system has spoilt for good must not keep the host in a circle: what can be tried is tried once. Where nobody gets in any
	// more, it is no old system, however often that was tried.
	shut := emergency || len(missing) > 0 && len(missing) == len(baseline.SSHPorts)
	if !shut && (s.Rebooted || s.Tries > 1 || s.Tries == 0) {
		return nil
	}
	return errors.New(text)
}

func (h *Host) verifySystems(s guard.State) error {
	have, old := h.seen(), s.Old
	runs := old.Current
	if s.NewBoot || runs == "" {
		runs = oldDefaultOf(old)
	}
	switch {
	case have.Current != runs:
		return fmt.Errorf("the host runs %q, and ran %q", have.Current, runs)
	case have.Profile != old.Profile || have.Generation != old.Generation:
		return fmt.Errorf("the system profile is %q (generation %d), and was %q (%d)", have.Profile, have.Generation, old.Profile, old.Generation)
	case old.BootDefault != "" && have.BootDefault != old.BootDefault:
		return fmt.Errorf("the host boots %q, and booted %q", have.BootDefault, old.BootDefault)
	}
	if s.Touched && old.BootDefault != "" {
		if err := h.Loader().Verify(old.BootDefault); err != nil {
			return err
		}
	}
	return h.nothingStaged(s)
}

// nothingStaged says that the next boot would not bring the default.
func (h *Host) nothingStaged(s guard.State) error {
	if s.Action != guard.Boot && s.Action != guard.Reboot {
		return nil
	}
	next, err := h.Loader().OneShot()
	if err != nil {
		return err
	}
	if next != "" {
		return fmt.Errorf("the next boot would bring %q", next)
	}
	return nil
}

// mayBoot says why the host must not be rebooted now: it would not come up with what it should.
func (h *Host) mayBoot(s guard.State) error {
	boots, wanted := h.seen().BootDefault, oldDefaultOf(s.Old)
	if wanted != "" && boots != wanted && (s.Old.BootDefault != "" || boots != "") {
		return fmt.Errorf("the boot default is %q, not the old system %q", boots, wanted)
	}
	if s.Phase != guard.Rebooting {
		return h.nothingStaged(s)
	}
	next, err := h.Loader().OneShot()
	if err != nil {
		return err
	}
	if next != s.New && (next != "" || boots != s.New) {
		return fmt.Errorf("the next boot would bring %q, not the new system", next)
	}
	return nil
}

// kernelOf is what of a system only a boot can change.
func kernelOf(system string) string {
	var parts []string
	for _, part := range []string{"kernel", "initrd", "kernel-modules"} {
		target, err := filepath.EvalSymlinks(filepath.Join(system, part))
		if err != nil {
			target = ""
		}
		parts = append(parts, target)
	}
	params, err := readBounded(filepath.Join(system, "kernel-params"), 64<<10)
	if err != nil {
		params = nil
	}
	// The command line names the system itself.
	return strings.Join(parts, "\n") + "\n" + strings.ReplaceAll(string(params), system, "")
}

// needsReboot says whether the running kernel is not that of the system that a transaction has committed.
func (h *Host) needsReboot(s guard.State) bool {
	if s.Phase != guard.Committed || s.Booted {
		return false
	}
	return kernelOf(s.New) != kernelOf(filepath.Join(h.Run, "booted-system"))
}

// waitBooted waits until a booting host has come up, whether well or not.
func (h *Host) waitBooted(ctx context.Context) error {
	deadline := sinceBoot() + bootPatience
	for {
		starting, err := h.Units.Starting(ctx)
		if err == nil && !starting {
			return nil
		}
		if sinceBoot() > deadline {
			if err != nil {
				return fmt.Errorf("wait for the end of the boot: %w", err)
			}
			return nil // its units are judged as they are
		}
		select {
		case <-time.After(4 * pollInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// shout tells everybody who is logged in, where that is possible.
func (h *Host) shout(ctx context.Context, text string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, _ = h.output(ctx, 1<<10, "wall", text)
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteString("<2>" + text + "\n") // the console shows it, and the journal keeps it
		_ = f.Close()
	}
}
