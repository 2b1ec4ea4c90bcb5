package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fleet/closure/run"
	"fleet/push/proto"
)

const (
	// unitsFailed is how switch-to-configuration says that it got to its end but units have failed.
	unitsFailed = 4
	// maxFailedUnits and failedUnitLines bound what is told about failed units.
	maxFailedUnits  = 20
	failedUnitLines = 10
	journalTimeout  = 10 * time.Second
)

// steps does what the action promises, and leaves out what is so already.
func (w *worker) steps(ctx context.Context) error {
	w.undone = w.host.undone(w.req.Txn)
	switch w.req.Action {
	case proto.ActionDryActivate:
		if err := w.enter(proto.TxnSwitching, stepDry); err != nil {
			return err
		}
		return w.switchTo(ctx, stepDry, activePath(w.req.BeginRequest), "dry-activate")
	case proto.ActionTest:
		return w.test(ctx)
	case proto.ActionBoot:
		return w.makeDefault(ctx)
	}
	// Until the test has passed, nothing is written that the next boot would use: whatever stops us boots the old system.
	if err := w.test(ctx); err != nil {
		return err
	}
	return w.makeDefault(ctx)
}

// test activates the target without making it the default.
func (w *worker) test(ctx context.Context) error {
	if err := w.enter(proto.TxnSwitching, stepTest); err != nil {
		return err
	}
	if w.host.systems().current == w.target && !slices.Contains(w.undone, stepTest) {
		w.log.say("%s runs already", w.target)
		return nil
	}
	before, err := w.listFailed(ctx)
	if err != nil {
		w.log.say("cannot list failed units: %v", err)
	}
	w.failedBefore = before
	if err := w.switchTo(ctx, stepTest, activePath(w.req.BeginRequest), "test"); err != nil {
		return err
	}
	if current := w.host.systems().current; current != w.target {
		return &stepError{step: stepVerify, reason: fmt.Sprintf("switch-to-configuration ended well, but the host runs %q", current)}
	}
	return nil
}

// makeDefault makes the toplevel the profile's and the boot loader's default, and looks whether it is.
func (w *worker) makeDefault(ctx context.Context) error {
	moved := false
	if w.host.systems().profile != w.toplevel {
		if err := w.enter(proto.TxnCommitting, stepProfile); err != nil {
			return err
		}
		w.log.say("nix-env -p %s --set %s", w.host.profileLink(), w.toplevel)
		if err := w.program(ctx, "nix-env", "-p", w.host.profileLink(), "--set", w.toplevel.String()); err != nil {
			return &stepError{step: stepProfile, reason: "set the system profile: " + oneLine(err.Error())}
		}
		moved = true
	}
	// A new generation has no boot entry yet, even where its system is the default already.
	if moved || w.host.systems().boot.Toplevel != w.toplevel || slices.Contains(w.undone, stepBoot) {
		if err := w.enter(proto.TxnCommitting, stepBoot); err != nil {
			return err
		}
		if err := w.switchTo(ctx, stepBoot, w.req.Toplevel, "boot"); err != nil {
			return err
		}
	}
	return w.verify()
}

func (w *worker) verify() error {
	if err := w.enter(proto.TxnCommitting, stepVerify); err != nil {
		return err
	}
	have := w.host.systems()
	switch {
	case have.profile != w.toplevel:
		return &stepError{step: stepVerify, reason: fmt.Sprintf("the system profile leads to %q after it was set", have.profile)}
	case have.boot.Loader == "":
		w.log.say("no boot loader is known here; what boots next was not verified")
	case have.boot.Err != nil:
		return &stepError{step: stepVerify, reason: "read what boots by default: " + have.boot.Err.Error()}
	case have.boot.Toplevel != w.toplevel:
		return &stepError{step: stepVerify, reason: fmt.Sprintf("the boot loader (%s) still boots %q by default", have.boot.Loader, have.boot.Toplevel)}
	}
	return nil
}

// switchTo runs switch-to-configuration and explains how it ended.
func (w *worker) switchTo(ctx context.Context, step, system, action string) error {
	program := switchProgram(system)
	w.log.say("%s %s", program, action)
	err := w.program(ctx, program, action)
	if err == nil {
		return nil
	}
	failure := &stepError{step: step, reason: "switch-to-configuration " + action + ": " + oneLine(err.Error())}
	exit, ok := errors.AsType[*run.ExitError](err)
	if !ok {
		return failure
	}
	failure.code = exit.Code
	failure.reason = fmt.Sprintf("switch-to-configuration %s %s", action, exitMeaning(exit))
	if exit.Code == unitsFailed {
		failure.units = w.failedUnits(ctx)
	}
	return failure
}

// exitMeaning knows the exit codes of switch-to-configuration-ng and of its Perl ancestor.
func exitMeaning(exit *run.ExitError) string {
	if exit.Signal != "" {
		return "was killed by " + exit.Signal
	}
	meaning := map[int]string{
		1:           "refused or could not finish",
		2:           "failed: an activation script failed",
		unitsFailed: "ended, but units have failed: the host runs the new system and boots the old one",
		11:          "could not get its lock, or lost logind",
		100:         "needs a reboot: systemd's interface has changed; deploy with boot, then reboot",
		101:         "crashed",
	}[exit.Code]
	if meaning == "" {
		meaning = "failed"
	}
	return fmt.Sprintf("%s (exit status %d)", meaning, exit.Code)
}

// failedUnits names the units that have failed since, with the end of their logs; where all had failed before, it names these.
func (w *worker) failedUnits(ctx context.Context) []proto.FailedUnit {
	after, err := w.listFailed(ctx)
	if err != nil {
		w.log.say("cannot list failed units: %v", err)
		return nil
	}
	after = slices.DeleteFunc(after, func(name string) bool { return strings.HasPrefix(name, "fleet-") })
	fresh := slices.DeleteFunc(slices.Clone(after), func(name string) bool { return slices.Contains(w.failedBefore, name) })
	if len(fresh) == 0 {
		fresh = after
	}
	var units []proto.FailedUnit
	for _, name := range fresh[:min(len(fresh), maxFailedUnits)] {
		units = append(units, proto.FailedUnit{Name: oneLine(name), Log: w.unitLog(ctx, name)})
	}
	return units
}

// listFailed bounds the question: a systemd that does not answer must not keep the host's lock for ever.
func (w *worker) listFailed(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	return w.host.Units.Failed(ctx)
}

func (w *worker) unitLog(ctx context.Context, name string) []string {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	text, err := w.host.output(ctx, 64<<10, "journalctl", "--unit="+name, "--lines=10", "--no-pager", "--output=cat", "--quiet")
	if err != nil {
		return []string{"its log cannot be read: " + oneLine(err.Error())}
	}
	return lastLines(string(text), failedUnitLines)
}
