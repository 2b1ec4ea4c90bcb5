package guard_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"fleet/push/guard"
)

const (
	oldSystem = "/nix/store/old"
	newSystem = "/nix/store/new"
)

// host is a model of a host under a guard: what it runs and boots, and what can go wrong with it. Only disk survives a boot.
type host struct {
	t    *testing.T
	rand *rand.Rand
	// disk is what was written down.
	disk guard.State
	// now is the time since the boot, booted how often it has booted.
	now   guard.Boottime
	boots int
	// seen is what it runs and boots; oneShot is booted next, once.
	seen    guard.Systems
	oneShot string
	// worker is the number of the worker that runs, 0 for none, and what it does; result is what the last one left.
	worker    int
	program   guard.Effect
	result    *guard.Event
	confirm   bool
	powerCuts int
	// trouble is how likely something goes wrong, in percent.
	trouble int
	// reboots counts those of the rollback.
	reboots int
	queue   []guard.Event
}

func newHost(t *testing.T, seed uint64, action guard.Action, policy guard.Policy, trouble int) *host {
	h := &host{t: t, rand: rand.New(rand.NewPCG(seed, 7)), boots: 1, trouble: trouble}
	h.seen = guard.Systems{Current: oldSystem, Booted: oldSystem, Profile: oldSystem, BootDefault: oldSystem, Generation: 1}
	h.disk = guard.Begin(action, policy, h.seen, newSystem, newSystem, h.bootID())
	return h
}

func (h *host) bootID() string { return fmt.Sprint("boot-", h.boots) }

func (h *host) wrong() bool { return h.rand.IntN(100) < h.trouble }

// handle gives an event to the machine as a guard does: write down, then do. It may be killed, and the host may lose its power, at every point.
func (h *host) handle(e guard.Event) {
	e.Now = h.now
	next, effects := guard.Step(h.disk, e)
	if h.crash() {
		return
	}
	h.disk = next
	h.check()
	for _, effect := range effects {
		if h.crash() {
			return
		}
		boot := h.boots
		h.perform(effect)
		h.check()
		if h.boots != boot || h.crash() {
			return
		}
	}
}

// crash kills the guard, or the host, now and then. What is in the queue is lost with it.
func (h *host) crash() bool {
	if h.rand.IntN(400) >= h.trouble {
		return false
	}
	if h.rand.IntN(3) == 0 && h.powerCuts < 3 {
		h.powerCuts++
		h.boot()
		return true
	}
	h.queue = []guard.Event{h.recovered()}
	return true
}

func (h *host) recovered() guard.Event {
	e := guard.Event{Kind: guard.Recover, BootID: h.bootID(), Seen: h.seen, Running: h.worker == h.disk.Worker && h.worker > 0}
	if h.result != nil && h.result.Worker == h.disk.Worker {
		e.Result, e.Exit, e.Worker = true, h.result.Exit, h.result.Worker
	}
	return e
}

// boot is what any reboot does.
func (h *host) boot() {
	h.boots++
	h.now, h.worker, h.result, h.confirm = 0, 0, nil, false
	system := h.seen.BootDefault
	if h.oneShot != "" {
		if !h.wrong() { // otherwise it panics, and the default comes
			system = h.oneShot
		}
		h.oneShot = ""
	}
	h.seen.Booted, h.seen.Current = system, system
	h.queue = []guard.Event{h.recovered()}
}

func (h *host) perform(e guard.Effect) {
	answer := func(kind guard.EventKind, ok bool, detail string) {
		h.queue = append(h.queue, guard.Event{Kind: kind, OK: ok, Detail: detail})
	}
	switch e.Kind {
	case guard.StartWorker:
		h.worker, h.program, h.result = e.Worker, e, nil
	case guard.StopWorker:
		if h.worker == e.Worker {
			h.worker = 0
		}
	case guard.Judge:
		answer(guard.Judged, !h.wrong(), "a unit has failed")
	case guard.OpenConfirm:
		h.confirm = true
	case guard.CloseConfirm:
		h.confirm = false
	case guard.SetProfile:
		if ok := !h.wrong(); ok {
			h.seen.Profile = e.System
			answer(guard.StepDone, true, "")
		} else {
			answer(guard.StepDone, false, "no space left")
		}
	case guard.RestoreProfile:
		h.seen.Profile = oldSystem
		answer(guard.StepDone, true, "")
	case guard.VerifyNew:
		answer(guard.StepDone, h.seen.Profile == newSystem && h.seen.BootDefault == newSystem, "it does not boot")
	case guard.Stage:
		if ok := !h.wrong(); ok {
			h.oneShot = newSystem
			answer(guard.StageDone, true, "")
		} else {
			answer(guard.StageDone, false, "no entry")
		}
	case guard.Unstage:
		h.oneShot = ""
	case guard.VerifyOld:
		ok := h.seen == guard.Systems{Current: oldSystem, Booted: h.seen.Booted, Profile: oldSystem, BootDefault: oldSystem, Generation: 1}
		answer(guard.Verified, ok && h.seen.Current == oldSystem && !h.wrong(), "something is missing")
	case guard.RebootHost:
		if h.wrong() {
			answer(guard.RebootFailed, false, "it stays")
			return
		}
		if h.disk.Phase == guard.RollbackReboot {
			h.reboots++
		}
		h.boot()
	case guard.Finish:
	}
}

// work lets the worker come to its end, or be killed.
func (h *host) work() {
	exit, effect := 0, h.program
	switch {
	case h.wrong():
		exit = []int{1, 2, 4, 11, 100, 101, -1}[h.rand.IntN(7)]
	case h.wrong():
		h.worker = 0 // killed, and nobody notices
		return
	}
	if effect.Verb == guard.VerbTest && (exit == 0 || exit == 4 || h.rand.IntN(2) == 0) {
		h.seen.Current = effect.System
	}
	if effect.Verb == guard.VerbBoot && exit == 0 {
		h.seen.BootDefault = effect.System
	}
	h.worker = 0
	h.result = &guard.Event{Kind: guard.WorkerEnded, Worker: effect.Worker, Exit: exit}
	h.queue = append(h.queue, *h.result)
}

// check holds what must hold at every moment.
func (h *host) check() {
	s := h.disk
	if !s.Confirmed && (s.Action == guard.Switch || s.Action == guard.Test) && (h.seen.Profile != oldSystem || h.seen.BootDefault != oldSystem) {
		h.t.Fatalf("I1: profile %q and default %q before a confirmation, in %q", h.seen.Profile, h.seen.BootDefault, s.Phase)
	}
	if !s.Confirmed && h.seen.BootDefault != oldSystem {
		h.t.Fatalf("I1: default %q before a confirmation, in %q", h.seen.BootDefault, s.Phase)
	}
	switch s.Phase {
	case guard.Committed:
		if !s.Confirmed || h.seen.Profile != newSystem || h.seen.BootDefault != newSystem {
			h.t.Fatalf("I3: committed, but %+v", h.seen)
		}
	case guard.Tested:
		if !s.Confirmed {
			h.t.Fatal("I3: tested without a confirmation")
		}
	case guard.RolledBack:
		if h.seen.Profile != oldSystem || h.seen.BootDefault != oldSystem || h.seen.Current != oldSystem || h.oneShot != "" {
			h.t.Fatalf("rolled back, but %+v, next %q", h.seen, h.oneShot)
		}
	}
	if h.reboots > 1 {
		h.t.Fatalf("I10: %d reboots", h.reboots)
	}
}

// run plays until the transaction has ended, and returns how many moves that took.
func (h *host) run(confirms bool) int {
	h.handle(guard.Event{Kind: guard.Start})
	for moves := range 5000 {
		if h.disk.Phase.Ended() {
			return moves
		}
		if h.disk.Phase == guard.Staged {
			h.boot()
		}
		h.move(confirms)
	}
	h.t.Fatalf("it does not end: %+v, host %+v", h.disk, h.seen)
	return 0
}

func (h *host) move(confirms bool) {
	switch {
	case len(h.queue) > 0:
		e := h.queue[0]
		h.queue = h.queue[1:]
		h.handle(e)
	case h.worker > 0:
		h.work()
	case h.confirm && confirms && !h.wrong():
		h.handle(guard.Event{Kind: guard.Confirm})
	case h.confirm && h.wrong():
		h.handle(guard.Event{Kind: guard.Unhealthy, Detail: "no answer on port 80"})
	default:
		h.now = h.now.Add(time.Minute)
		h.handle(guard.Event{Kind: guard.Tick})
	}
}

func patience() guard.Policy {
	return guard.Policy{
		Switch: 15 * time.Minute, Confirm: 3 * time.Minute, Rollback: 10 * time.Minute, Judge: 5 * time.Minute, BootConfirm: 10 * time.Minute,
		Reboot: guard.RebootAlways,
	}
}

func TestWithoutTroubleEveryActionEndsInTheNewSystem(t *testing.T) {
	for action, want := range map[guard.Action]guard.Phase{
		guard.Switch: guard.Committed, guard.Test: guard.Tested, guard.Boot: guard.Committed, guard.Reboot: guard.Committed,
	} {
		policy := patience()
		policy.SelfConfirm = action == guard.Boot
		h := newHost(t, 1, action, policy, 0)
		h.run(true)
		if h.disk.Phase != want {
			t.Errorf("%s ended in %q: %s", action, h.disk.Phase, h.disk.Reason)
		}
	}
}

func TestWithoutAConfirmationEveryActionEndsInTheOldSystem(t *testing.T) {
	for _, action := range []guard.Action{guard.Switch, guard.Test, guard.Reboot} {
		h := newHost(t, 1, action, patience(), 0)
		h.run(false)
		if h.disk.Phase != guard.RolledBack || h.disk.Reason == "" {
			t.Errorf("%s ended in %q: %q", action, h.disk.Phase, h.disk.Reason)
		}
	}
}

// Every random history of faults, kills of the guard and power cuts ends in the new system, confirmed, or in the old one, verified.
func TestEveryHistoryEndsInOneOfTwoSystems(t *testing.T) {
	runs := uint64(20_000)
	if testing.Short() {
		runs = 2_000
	}
	ends := map[guard.Phase]int{}
	for seed := range runs {
		action := []guard.Action{guard.Switch, guard.Test, guard.Boot, guard.Reboot}[seed%4]
		policy := patience()
		policy.SelfConfirm = action == guard.Boot
		policy.Reboot = []guard.RebootPolicy{guard.RebootAlways, guard.RebootNever, guard.RebootIfSafe}[seed/4%3]
		h := newHost(t, seed, action, policy, int(seed%40))
		h.run(seed%5 != 0)
		ends[h.disk.Phase]++
		if p := h.disk.Phase; p != guard.Committed && p != guard.Tested && p != guard.RolledBack {
			t.Fatalf("seed %d: %s ended in %q", seed, action, p)
		}
	}
	t.Logf("endings: %v", ends)
}
