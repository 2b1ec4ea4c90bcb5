package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
	"fleet/push/guard"
	"fleet/push/proto"
)

const (
	// bootPatience is how long a booting host may take until its units can be judged.
	bootPatience = 5 * time.Minute
	// switchLockPatience is how long somebody else's switch-to-configuration is waited for.
	switchLockPatience = 30 * time.Second
)

// perform does one effect. Those that take a while become tasks; all may be done again.
func (g *guardian) perform(e guard.Effect) {
	s := g.state()
	switch e.Kind {
	case guard.StartWorker:
		g.compared.release() // it is the worker's to take
		g.start(func(ctx context.Context) (guard.Event, bool) { return g.runWorker(ctx, e, s) })
	case guard.StopWorker:
		g.endTask()
		if err := g.host.killWorker(g.ctx, g.txn(), e.Worker); err != nil {
			g.say("end worker %d: %v", e.Worker, err)
		}
	case guard.Judge:
		g.start(func(ctx context.Context) (guard.Event, bool) { return g.judge(ctx, s), true })
	case guard.OpenConfirm:
		g.openConfirm()
	case guard.CloseConfirm:
		g.closeConfirm()
	case guard.SetProfile:
		g.answer(result(guard.StepDone, g.setProfile(e.System)))
	case guard.RestoreProfile:
		g.answer(result(guard.StepDone, g.host.restoreProfile(s.Old, g.journal.last.Made, s.New)))
	case guard.VerifyNew:
		g.answer(result(guard.StepDone, g.host.verifyNew(s.New)))
	case guard.Stage:
		g.start(func(ctx context.Context) (guard.Event, bool) {
			return result(guard.StageDone, g.host.Loader().Stage(ctx, g.staging(s))), true
		})
	case guard.Unstage:
		g.unstage(s)
	case guard.VerifyOld:
		g.start(func(ctx context.Context) (guard.Event, bool) {
			o := g.opening()
			return result(guard.Verified, g.host.verifyOld(ctx, s, o.Baseline, o.Policy.IgnoreUnits, g.note)), true
		})
	case guard.RebootHost:
		g.start(func(ctx context.Context) (guard.Event, bool) {
			return result(guard.RebootFailed, g.reboot(ctx, s)), true
		})
	case guard.Finish:
		g.finish()
	}
}

// result makes an answer out of how a step ended.
func result(kind guard.EventKind, err error) guard.Event {
	if err == nil {
		return guard.Event{Kind: kind, OK: true}
	}
	return guard.Event{Kind: kind, Detail: oneLine(err.Error())}
}

// answer has an event handled once all effects of the present one are done.
func (g *guardian) answer(e guard.Event) { g.queue = append(g.queue, e) }

// judge looks at the host after it was activated, or booted.
func (g *guardian) judge(ctx context.Context, s guard.State) guard.Event {
	if !g.compared.take(ctx, g.host, switchLockPatience) {
		return guard.Event{Kind: guard.Judged, Detail: "somebody else's switch-to-configuration runs, so nobody can tell what this one has done"}
	}
	if s.Booted {
		if err := g.host.waitBooted(ctx); err != nil {
			return guard.Event{Kind: guard.Judged, Detail: err.Error()}
		}
	}
	if have := g.host.seen(); !s.Booted && have.Current != s.Target {
		return guard.Event{Kind: guard.Judged, Detail: fmt.Sprintf("switch-to-configuration ended well, but the host runs %q", have.Current)}
	}
	verdict := g.host.Examine(ctx, g.trial(s))
	if len(verdict.Failures) == 0 {
		return guard.Event{Kind: guard.Judged, OK: true}
	}
	return guard.Event{Kind: guard.Judged, Detail: g.condemn(verdict)}
}

// trial is what the new system is judged by.
func (g *guardian) trial(s guard.State) Trial {
	t := Trial{Baseline: g.opening().Baseline, Policy: g.opening().Policy, Toplevel: s.Target, Exit: s.ExitCode, Dir: g.host.txnDir(g.txn()), Log: g.note}
	if s.Booted {
		t.Toplevel, t.Exit = s.New, 0
	}
	return t
}

// condemn keeps what is wrong with units for the report, and returns the reason in a line.
func (g *guardian) condemn(v Verdict) string {
	if len(v.Units) > 0 {
		if err := writeJSON(g.file(unitsName), v.Units); err != nil {
			g.say("%v", err)
		}
	}
	return clip(oneLine(strings.Join(v.Failures, "; ")))
}

// staging is how the loader makes the new system the next boot, with the old one's program.
func (g *guardian) staging(s guard.State) Staging {
	old := s.Old.BootDefault
	if old == "" {
		old = s.Old.Profile
	}
	return Staging{Old: old, New: s.New, Switch: func(ctx context.Context, toplevel string) error {
		exit, detail := g.runProgram(ctx, program{System: toplevel, Verb: guard.VerbBoot, NoCheck: toplevel == old}, stageWorker, s.Policy)
		if exit == 0 {
			return nil
		}
		return errors.New(exitText("switch-to-configuration boot", exit, detail))
	}}
}

// note writes somebody else's line into the log.
func (g *guardian) note(line string) { g.say("%s", oneLine(line)) }

func exitText(what string, exit int, detail string) string {
	switch {
	case exit < 0 && detail != "":
		return what + ": " + detail
	case exit < 0:
		return what + " was killed"
	}
	return fmt.Sprintf("%s ended with exit code %d", what, exit)
}

// unstage waits for its end: what comes next looks at what it has done.
func (g *guardian) unstage(s guard.State) {
	g.endTask()
	ctx, cancel := context.WithTimeout(g.ctx, s.Policy.Rollback)
	defer cancel()
	if err := g.host.Loader().Unstage(ctx, g.staging(s)); err != nil {
		g.say("take the staged boot back: %v", err)
	}
}

// setProfile writes down which generation is ours before there is one.
func (g *guardian) setProfile(toplevel string) error {
	s := g.state()
	have := g.host.seen()
	if have.Profile != s.Old.Profile && have.Profile != toplevel {
		return fmt.Errorf("somebody else has made %q the system profile meanwhile", have.Profile)
	}
	number, err := g.host.nextGeneration(toplevel, g.journal.last.Made)
	if err != nil {
		return err
	}
	if number.fresh && g.journal.last.Made != number.value {
		e := g.journal.last
		e.Made = number.value
		if err := g.record(e, true); err != nil {
			return err
		}
	}
	if err := g.host.setGeneration(number.value, toplevel); err != nil {
		return err
	}
	// The candidate of a staged boot is a generation now; two of them would be the default's system.
	return g.host.DropCandidate()
}

// reboot returns where the host does not go down, or must not.
func (g *guardian) reboot(ctx context.Context, s guard.State) error {
	if err := g.host.mayBoot(s); err != nil {
		return err
	}
	faultPoint(g.host, "before the reboot")
	return g.host.Reboot(ctx, g.host, g.txn())
}

// finish clears away what the transaction held. It is repeated where it was stopped half-way.
func (g *guardian) finish() {
	e := g.journal.last
	g.endTask()
	g.compared.release()
	g.host.keepGood(e.State)
	if e.Drained {
		if err := g.hook(g.ctx, g.opening().Policy.Undrain); err != nil {
			e.Notices = append(e.Notices, clip("undrain: "+oneLine(err.Error())))
		}
	}
	if e.State.Phase == guard.Committed || e.State.Phase == guard.Tested {
		if err := g.host.dropSecrets(g.ctx, e.State.Target); err != nil {
			e.Notices = append(e.Notices, clip("take away the secrets that are declared no more: "+oneLine(err.Error())))
		}
	}
	e.Seen, e.NeedsReboot = g.host.seen(), g.host.needsReboot(e.State)
	e.Finished = true
	g.host.dropRoots(g.txn())
	_ = os.Remove(g.file(nonceName))
	if err := g.record(e, false); err != nil {
		g.say("the journal cannot be written: %v", err)
	}
	g.stopBackstop()
}

// stopBackstop tries for a while: a timer that stays finds nothing to do.
func (g *guardian) stopBackstop() {
	ctx, cancel := context.WithTimeout(g.ctx, unitStartTimeout)
	defer cancel()
	if err := g.host.Units.Stop(ctx, backstopTimer(g.txn())); err != nil {
		g.say("stop the backstop: %v", err)
	}
}

// drain takes the host out of use before anything is begun.
func (g *guardian) drain() {
	policy := g.opening().Policy
	if len(policy.Drain) == 0 || g.opening().Action == proto.ActionBoot {
		g.handle(guard.Event{Kind: guard.Start})
		return
	}
	e := g.journal.last
	e.Drained = true
	if err := g.record(e, true); err != nil {
		g.refuse(guard.Event{}, err)
		return
	}
	g.say("drain: %s", strings.Join(policy.Drain, " "))
	g.start(func(ctx context.Context) (guard.Event, bool) {
		if err := g.hook(ctx, policy.Drain); err != nil {
			return guard.Event{Kind: guard.Abort, Detail: "drain: " + oneLine(err.Error())}, true
		}
		return guard.Event{Kind: guard.Start}, true
	})
}

// hook runs a program of the operator's on the host.
func (g *guardian) hook(ctx context.Context, argv []string) error {
	if len(argv) == 0 {
		return nil
	}
	limit := seconds(g.opening().Policy.SwitchSeconds)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %s", limit))
	defer cancel()
	defer g.log.flush()
	return g.host.Runner.Run(ctx, run.Cmd{
		Argv: argv, Dir: "/", Env: g.host.environment(), ClearEnv: true, Stdout: g.log, Stderr: g.log, Grace: 5 * time.Second,
	})
}

// switchLock is the lock of switch-to-configuration, taken by tasks and freed by the guard itself.
type switchLock struct {
	held chan *os.File
}

// take takes the lock and reports whether we have it.
func (l *switchLock) take(ctx context.Context, h *Host, patience time.Duration) bool {
	if l.has() {
		return true
	}
	f, err := h.lockSwitch(ctx, patience)
	if err != nil {
		return false
	}
	l.held <- f
	return true
}

func (l *switchLock) release() {
	select {
	case f := <-l.held:
		_ = f.Close()
	default:
	}
}

func (l *switchLock) has() bool { return len(l.held) > 0 }

func (h *Host) switchLockFile() string {
	return filepath.Join(h.Run, "nixos", "switch-to-configuration.lock")
}

// lockSwitch takes the lock of switch-to-configuration as that does, see nixpkgs, switch-to-configuration-ng.
func (h *Host) lockSwitch(ctx context.Context, patience time.Duration) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(h.switchLockFile()), 0o755); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for {
		f, err := lockNow(h.switchLockFile(), os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
		if !errors.Is(err, errHeld) || time.Now().After(deadline) {
			return f, err
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
