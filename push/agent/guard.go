package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"fleet/push/guard"
	"fleet/push/proto"
)

const (
	// guardLockPatience is how long a guard waits for the host's lock. Somebody who begins another transaction holds it until they have seen ours.
	guardLockPatience = time.Minute
	// stagedPatience is how long a guard stays for somebody who wants to take a staged boot back. Afterwards it is started for that.
	stagedPatience = 2 * time.Second
	// emergencyPatience is how long a host may be in its emergency mode before that counts as a failure.
	emergencyPatience = 30 * time.Second
	emergencyLook     = 5 * time.Second
	emergencyTarget   = "emergency.target"
	// taskPatience is how long something that was called off may take to end.
	taskPatience = 30 * time.Second
)

// errEndsEarly is why a guard ends before its transaction: it was asked to, as every process is when the host goes down. It is started
// again, or after the boot.
var errEndsEarly = errors.New("the guard was asked to end; the transaction goes on with the next one")

// guardian is the process that guards one transaction: it alone writes the journal. What happened comes in as an event, the state machine says
// what follows, that is written down, and then done.
type guardian struct {
	host    *Host
	journal *journal
	log     *switchWriter
	clock   *bootTimer
	// events come from tasks and clients.
	events chan happening
	// queue holds events that are answers already there.
	queue []guard.Event
	// task is what is under way and will be answered by an event; there is at most one.
	task task
	// compared is the lock of switch-to-configuration, which is held so that nobody activates something else.
	compared switchLock
	// nonce is what a confirmation has to name; empty while none is taken.
	nonce string
	// patience is how long a switch and its judgement may take.
	patience time.Duration
	ctx      context.Context
	wg       sync.WaitGroup
}

// happening is an event on its way to the state machine.
type happening struct {
	// task is the number of the task that it answers, 0 for none.
	task  int
	event guard.Event
	// do, unless nil, is called instead, by the one who may look at the state and handle events.
	do func()
}

// task is something that takes a while.
type task struct {
	number int
	cancel context.CancelFunc
	done   chan struct{}
}

// RunGuard guards a transaction to its end, or until a boot is staged. It returns nil where there is nothing to guard: another guard does that, or the
// transaction has ended. It holds the host's lock meanwhile.
func RunGuard(ctx context.Context, host *Host, txn string) error {
	if !txnForm().MatchString(txn) {
		return fmt.Errorf("guard: %.60q is no transaction", txn)
	}
	if _, err := os.Lstat(host.journalPath(txn)); errors.Is(err, fs.ErrNotExist) {
		return nil // it was withdrawn
	}
	if err := host.makeTxnDir(txn); err != nil {
		return err
	}
	if !host.Units.Detached() {
		if err := detach(filepath.Join(host.txnDir(txn), guardLog)); err != nil {
			return err
		}
	}
	j, err := openJournal(realDisk{}, host.journalPath(txn), host.shadowPath(txn))
	switch {
	case errors.Is(err, errHeld), errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotBegun):
		return nil
	case err != nil:
		return err
	case !j.last.open():
		return j.close()
	}
	defer j.close()
	return (&guardian{host: host, journal: j, events: make(chan happening), compared: switchLock{make(chan *os.File, 1)}}).guard(ctx)
}

func (g *guardian) guard(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.ctx = ctx
	lock, err := g.takeHost(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	log, err := g.host.openLog(g.txn())
	if err != nil {
		return err
	}
	defer log.file.Close()
	g.log = log
	if g.clock, err = newBootTimer(); err != nil {
		return err
	}
	defer g.clock.close()
	defer g.compared.release()
	listener, err := g.listen()
	if err != nil {
		return err
	}
	defer g.wg.Wait()
	defer cancel()
	defer listener.Close()
	g.patience = g.state().Policy.Switch + g.state().Policy.Judge
	g.wg.Go(g.armBackstop)
	g.wg.Go(func() { g.serve(listener) })
	g.wg.Go(g.watchEmergency)
	return g.run()
}

// takeHost takes the host's lock.
func (g *guardian) takeHost(ctx context.Context) (*os.File, error) {
	holder := proto.LockHolder{Owner: g.opening().Owner, Txn: g.txn(), Since: g.opening().Created}
	ctx, cancel := context.WithTimeout(ctx, guardLockPatience)
	defer cancel()
	for {
		lock, err := g.host.acquireLock(ctx, holder)
		if !errors.Is(err, errHeld) || ctx.Err() != nil {
			return lock, err
		}
	}
}

func (g *guardian) opening() opening     { return g.journal.opening }
func (g *guardian) txn() string          { return g.journal.opening.Txn }
func (g *guardian) state() guard.State   { return g.journal.last.State }
func (g *guardian) phase() guard.Phase   { return g.journal.last.State.Phase }
func (g *guardian) file(n string) string { return filepath.Join(g.host.txnDir(g.txn()), n) }

// run handles events until the transaction has ended.
func (g *guardian) run() error {
	defer g.endTask()
	g.first()
	for g.journal.last.open() {
		if len(g.queue) > 0 {
			e := g.queue[0]
			g.queue = g.queue[1:]
			g.handle(e)
			continue
		}
		var rest <-chan time.Time
		if g.phase() == guard.Staged {
			rest = time.After(stagedPatience)
		}
		g.clock.set(g.state().Deadline)
		select {
		case h := <-g.events:
			g.take(h)
		case <-g.clock.C:
			g.handle(guard.Event{Kind: guard.Tick})
		case <-rest:
			return nil
		case <-g.ctx.Done():
			return errEndsEarly
		}
	}
	return nil
}

// first is the event that a guard begins with.
func (g *guardian) first() {
	s, boot := g.state(), g.host.bootID()
	if s.Phase == guard.Prepared && s.BootID == boot {
		g.drain()
		return
	}
	e := guard.Event{Kind: guard.Recover, BootID: boot, Seen: g.host.seen(), Worker: s.Worker}
	if boot == s.BootID && s.Worker > 0 {
		e.Running = g.host.workerRuns(g.ctx, g.txn(), s.Worker)
		e.Exit, e.Result = g.host.workerResult(g.txn(), s.Worker)
	}
	g.say("a new guard takes over, in %q", s.Phase)
	g.handle(e)
	if after := g.state(); e.Running && !e.Result && after.Worker == s.Worker && after.Phase == s.Phase {
		g.start(func(ctx context.Context) (guard.Event, bool) { return g.awaitWorker(ctx, s.Worker) })
	}
}

func (g *guardian) take(h happening) {
	if h.task != 0 && h.task != g.task.number {
		return // called off
	}
	if h.do != nil {
		h.do()
		return
	}
	g.handle(h.event)
}

// handle is one step: decide, write down, do.
func (g *guardian) handle(e guard.Event) {
	e.Now = max(e.Now, guard.Boottime(sinceBoot()))
	before := g.journal.last
	next, effects := guard.Step(before.State, e)
	if next == before.State && len(effects) == 0 {
		return
	}
	after := before
	after.State = next
	g.remember(&after, before, e)
	// What leads to a new boot default, or out of the state in which nothing was done, must be known after a loss of power, too.
	must := before.State.Phase == guard.Prepared || next.Confirmed && !before.State.Confirmed
	g.tell(before.State, next) // first, so that all of the log is there when its end is seen
	if err := g.record(after, must); err != nil {
		g.say("the journal cannot be written: %v", err)
		g.refuse(e, err)
		return
	}
	for _, effect := range effects {
		g.perform(effect)
		faultPoint(g.host, "done "+string(effect.Kind))
	}
}

// record writes an entry down.
func (g *guardian) record(e entry, must bool) error {
	faultPoint(g.host, "write "+string(e.State.Phase))
	err := g.journal.append(e, must)
	faultPoint(g.host, "written "+string(e.State.Phase))
	return err
}

// refuse goes back instead of taking a step that could not be written down.
func (g *guardian) refuse(e guard.Event, cause error) {
	detail := clip("the journal cannot be written: " + cause.Error())
	switch g.phase() {
	case guard.AwaitConfirm:
		g.handle(guard.Event{Kind: guard.Unhealthy, Detail: detail})
	case guard.Prepared:
		if e.Kind == guard.Abort {
			// Nothing was done. Whoever looks next finds out that nobody guards it.
			g.journal.last.State.Phase, g.journal.last.Finished = guard.RolledBack, true
			return
		}
		g.handle(guard.Event{Kind: guard.Abort, Detail: detail})
	}
}

// remember fills in what the guard itself has to know later.
func (g *guardian) remember(after *entry, before entry, e guard.Event) {
	if before.State.Reason == "" && after.State.Reason != "" {
		after.Step = stepOf(before.State)
	}
	after.State.Reason, after.State.Trouble = clip(after.State.Reason), clip(after.State.Trouble)
	switch {
	case e.Kind == guard.Recover && after.State.BootID != before.State.BootID:
		after.Switched, after.LogBase = 0, after.LogBase+2*maxSwitchLog
	case before.State.Phase == guard.Switching && after.State.Phase == guard.Judging:
		after.Switched = e.Now
	}
}

// stepOf names what a state has under way.
func stepOf(s guard.State) string {
	switch s.Phase {
	case guard.Prepared:
		return stepLock
	case guard.Switching:
		return stepTest
	case guard.Judging:
		return stepHealth
	case guard.AwaitConfirm:
		return stepConfirm
	case guard.Committing:
		return string(s.Step)
	case guard.Staging, guard.Staged:
		return stepStage
	case guard.Rebooting:
		return stepReboot
	case guard.RollingBack, guard.RollbackReboot, guard.RollbackFailed, guard.Verifying:
		return stepRollback
	}
	return ""
}

// tell says in the log what people want to know.
func (g *guardian) tell(before, after guard.State) {
	if after.Reason != before.Reason {
		g.say("it has failed: %s", after.Reason)
	}
	if after.Trouble != before.Trouble && after.Trouble != "" {
		g.say("the way back: %s", after.Trouble)
	}
	if after.Phase == before.Phase {
		return
	}
	switch after.Phase {
	case guard.AwaitConfirm:
		if !after.Policy.SelfConfirm {
			g.say("healthy; waiting for a confirmation over a new connection, until the old system comes back in %s", after.Policy.Confirm)
		}
	case guard.Rebooting, guard.RollbackReboot:
		g.say("the host reboots")
	case guard.RollbackFailed:
		g.say("THE OLD SYSTEM DOES NOT STAND; the guard tries again in %s", time.Duration(after.Deadline)-sinceBoot())
		g.host.shout(g.ctx, fmt.Sprintf("fleet: transaction %s: neither the new nor the old system stands: %s", g.txn(), after.Trouble))
	default:
		g.say("%s", after.Phase)
	}
}

func (g *guardian) say(format string, args ...any) { g.log.say(format, args...) }

// start begins a task; an earlier one is called off. What f returns is handled unless that happens to it, too.
func (g *guardian) start(f func(context.Context) (guard.Event, bool)) {
	g.endTask()
	ctx, cancel := context.WithCancel(g.ctx)
	number, done := g.task.number+1, make(chan struct{})
	g.task = task{number, cancel, done}
	g.wg.Go(func() {
		defer close(done)
		e, ok := f(ctx)
		if !ok {
			return
		}
		select {
		case g.events <- happening{task: number, event: e}:
		case <-ctx.Done():
		}
	})
}

// endTask calls the present task off and waits for its end, so that it cannot undo what comes next.
func (g *guardian) endTask() {
	if g.task.cancel == nil {
		return
	}
	g.task.cancel()
	select {
	case <-g.task.done:
	case <-time.After(taskPatience):
		g.say("something that was called off does not end")
	}
	g.task.cancel = nil
	g.task.number++
}

// watchEmergency notices a host that sits in its emergency mode, where nobody can reach it.
func (g *guardian) watchEmergency() {
	tick := time.NewTicker(emergencyLook)
	defer tick.Stop()
	var since time.Duration
	for {
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
		if active, err := g.host.Units.Running(g.ctx, emergencyTarget); err != nil || !active {
			since = 0
			continue
		}
		now := sinceBoot()
		if since == 0 {
			since = now
		}
		if now-since < emergencyPatience {
			continue
		}
		since = 0
		detail := fmt.Sprintf("the host is in its emergency mode for %s", emergencyPatience)
		// Each counts in one phase alone.
		for _, kind := range []guard.EventKind{guard.Judged, guard.Unhealthy} {
			select {
			case g.events <- happening{event: guard.Event{Kind: kind, Detail: detail}}:
			case <-g.ctx.Done():
				return
			}
		}
	}
}
