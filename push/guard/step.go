package guard

import (
	"fmt"
	"time"
)

const (
	// rebootPatience is how long a host may take to go down.
	rebootPatience = 10 * time.Minute
	// The pauses between tries of R3 double, from the first to the last.
	firstPause = 30 * time.Second
	lastPause  = 10 * time.Minute
)

// Exit codes of switch-to-configuration that mean something to us (nixpkgs, switch-to-configuration-ng).
const (
	exitOK          = 0
	exitActivation  = 2
	exitUnitsFailed = 4
)

// Step says what follows from an event: the next state, which is to be written down first, and then what is to be done, in order. An event that
// means nothing in the present state changes nothing.
func Step(s State, e Event) (State, []Effect) {
	if s.Phase.Ended() && e.Kind != Recover {
		return s, nil
	}
	m := machine{State: s, now: e.Now}
	m.event(e)
	return m.State, m.effects
}

// machine is one step under way.
type machine struct {
	State
	now     Boottime
	effects []Effect
}

func (m *machine) do(kinds ...EffectKind) {
	for _, kind := range kinds {
		m.effects = append(m.effects, Effect{Kind: kind})
	}
}

func (m *machine) enter(phase Phase, patience time.Duration) {
	m.Phase, m.Deadline = phase, 0
	if patience > 0 {
		m.Deadline = m.now.Add(patience)
	}
}

// run starts the next worker.
func (m *machine) run(system string, verb Verb) {
	m.Worker++
	m.effects = append(m.effects, Effect{Kind: StartWorker, Worker: m.Worker, System: system, Verb: verb})
}

func (m *machine) stop() {
	m.effects = append(m.effects, Effect{Kind: StopWorker, Worker: m.Worker})
}

func (m *machine) event(e Event) {
	switch e.Kind {
	case Start:
		if m.Phase == Prepared {
			m.begin()
		}
	case Recover:
		m.recover(e)
	case WorkerEnded:
		if e.Worker == m.Worker {
			m.workerEnded(e)
		}
	case Tick:
		if m.Deadline > 0 && e.Now >= m.Deadline {
			m.late()
		}
	case Abort:
		m.abort(e.Detail)
	case Confirm:
		if m.Phase == AwaitConfirm {
			m.confirm()
		}
	default:
		m.answer(e)
	}
}

// answer takes the results of effects, and of checks.
func (m *machine) answer(e Event) {
	switch {
	case e.Kind == Judged && m.Phase == Judging && e.OK:
		m.await()
	case e.Kind == Judged && m.Phase == Judging,
		e.Kind == Unhealthy && m.Phase == AwaitConfirm:
		m.fail(e.Detail)
	case e.Kind == StepDone && m.Phase == Committing:
		m.commitStepDone(e)
	case e.Kind == StepDone && m.Phase == RollingBack && m.State.Step == CommitProfile:
		m.trouble(e)
		m.undoBoot()
	case e.Kind == StageDone && m.Phase == Staging:
		m.staged(e)
	case e.Kind == Verified && m.Phase == Verifying:
		m.verified(e)
	case e.Kind == RebootFailed && m.Phase == Rebooting:
		m.fail("the host does not reboot: " + e.Detail)
	case e.Kind == RebootFailed && m.Phase == RollbackReboot:
		m.trouble(e)
		m.giveUpForNow()
	}
}

// begin is the first thing that changes the host.
func (m *machine) begin() {
	switch m.Action {
	case Boot, Reboot:
		m.Touched = true
		m.enter(Staging, m.Policy.Switch)
		m.do(Stage)
	default:
		m.enter(Switching, m.Policy.Switch)
		m.run(m.Target, VerbTest)
	}
}

func (m *machine) workerEnded(e Event) {
	switch {
	case m.Phase == Switching:
		m.ExitCode = e.Exit
		if e.Exit == exitOK || e.Exit == exitUnitsFailed {
			m.judge()
			return
		}
		m.fail(exitReason("switch-to-configuration test", e))
	case m.Phase == Committing && m.State.Step == CommitBoot:
		if e.Exit == exitOK {
			m.State.Step = CommitVerify
			m.do(VerifyNew)
			return
		}
		m.fail(exitReason("switch-to-configuration boot", e))
	case m.Phase == RollingBack && m.State.Step == CommitBoot:
		if e.Exit != exitOK {
			m.Trouble = exitReason("switch-to-configuration boot of the old system", e)
		}
		m.activateOld()
	case m.Phase == RollingBack && m.State.Step == "":
		m.oldActivated(e)
	}
}

// judge looks at what was activated, or booted.
func (m *machine) judge() {
	m.enter(Judging, m.Policy.Judge)
	m.do(Judge)
}

// await waits for a confirmation, or does without.
func (m *machine) await() {
	patience := m.Policy.Confirm
	if m.Booted {
		patience = m.Policy.BootConfirm
	}
	m.enter(AwaitConfirm, patience)
	if m.Policy.SelfConfirm {
		m.confirm()
		return
	}
	m.do(OpenConfirm)
}

func (m *machine) confirm() {
	m.Confirmed = true
	if !m.Policy.SelfConfirm {
		m.do(CloseConfirm)
	}
	if m.Action == Test {
		m.end(Tested)
		return
	}
	m.commit()
}

func (m *machine) commit() {
	m.Touched = true
	m.enter(Committing, m.Policy.Switch)
	m.State.Step = CommitProfile
	m.effects = append(m.effects, Effect{Kind: SetProfile, System: m.New})
}

func (m *machine) commitStepDone(e Event) {
	switch {
	case !e.OK:
		m.fail(e.Detail)
	case m.State.Step == CommitProfile:
		m.State.Step = CommitBoot
		m.run(m.New, VerbBoot)
	case m.State.Step == CommitVerify:
		m.end(Committed)
	}
}

func (m *machine) staged(e Event) {
	switch {
	case !e.OK:
		m.fail(e.Detail)
	case m.Action == Boot:
		m.enter(Staged, 0)
	default:
		m.enter(Rebooting, rebootPatience)
		m.do(RebootHost)
	}
}

func (m *machine) end(phase Phase) {
	m.enter(phase, 0)
	m.State.Step = ""
	m.do(Finish)
}

// late is what the deadline of a phase means.
func (m *machine) late() {
	switch m.Phase {
	case Switching:
		m.fail(fmt.Sprintf("the activation did not end within %s", m.Policy.Switch))
	case Judging:
		m.fail(fmt.Sprintf("the health checks did not end within %s", m.Policy.Judge))
	case AwaitConfirm:
		m.fail("no confirmation came in time")
	case Committing, Staging:
		m.fail(fmt.Sprintf("the boot loader was not installed within %s", m.Policy.Switch))
	case Rebooting:
		m.fail("the host did not go down")
	case RollingBack:
		m.Trouble = fmt.Sprintf("the old system was not activated within %s", m.Policy.Rollback)
		m.stop()
		m.climb()
	case RollbackReboot:
		m.Trouble = "the host did not go down"
		m.giveUpForNow()
	case RollbackFailed:
		m.rollBack()
	case Verifying:
		m.Trouble = "looking at the old system took too long"
		m.notVerified()
	}
}

// abort goes back while that is possible. What is being committed, goes down, or is on its way back already is left alone.
func (m *machine) abort(detail string) {
	switch m.Phase {
	case Prepared, Switching, Judging, AwaitConfirm, Staging, Staged:
		// Whoever aborts wants the old system, whatever was said at the beginning.
		m.Policy.NoRollback = false
		m.fail(detail)
	}
}

func exitReason(what string, e Event) string {
	switch {
	case e.Exit < 0 && e.Detail != "":
		return what + ": " + e.Detail
	case e.Exit < 0:
		return what + " was killed"
	}
	return fmt.Sprintf("%s ended with exit code %d", what, e.Exit)
}
