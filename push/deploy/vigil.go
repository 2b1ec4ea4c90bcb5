package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"fleet/closure/run"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
)

const (
	// lastWord is how long the connection that confirmed may take to tell the end, once another one has told it.
	lastWord = 10 * time.Second
	// The pauses between tries to reach a host that is away double, from the first to the last.
	firstPause, lastPause = time.Second, 10 * time.Second
	// silence is how long nothing comes from a host before it is looked at through a vantage too: connections that are cut are noticed much later.
	silence = 8 * time.Second
	// rebootTime is how long a host may take to go down and to come up again.
	rebootTime = 10 * time.Minute
)

// vigil watches one transaction to its end and, where it waits for that, confirms it. The host's guard needs none of this to stay safe.
type vigil struct {
	h      *hostRun
	policy proto.GuardPolicy
	// others are the health checks that the host does not make itself.
	others map[string]proto.HealthCheck
	ways   []way

	states chan proto.TxnState
	lost   chan error
	ends   chan ending
	work   sync.WaitGroup

	mu sync.Mutex
	// seen is when the host last said something.
	seen time.Time
	// unconfirmed is why the last try to confirm went wrong, cut how the connection broke before there was one.
	unconfirmed, cut error
	// passed are the checks of others that went well.
	passed map[string]bool
	// over says that the host does not wait for a confirmation any more.
	over bool
}

// ending is how one of the watchers has ended.
type ending struct {
	who    watcher
	status proto.TxnStatus
	err    error
}

// watcher says over which connection a transaction is looked at.
type watcher int

const (
	// watchMain is the session that has begun it, watchVantage one through another host, watchConfirm the one that confirms.
	watchMain watcher = iota
	watchVantage
	watchConfirm
)

func (h *hostRun) newVigil(policy proto.GuardPolicy, others map[string]proto.HealthCheck, ways []way) *vigil {
	return &vigil{
		h: h, policy: policy, others: others, ways: ways, states: make(chan proto.TxnState), lost: make(chan error), ends: make(chan ending, 3), // one for each who
		seen: time.Now(), passed: map[string]bool{},
	}
}

// keep returns how the transaction ended. A rollback that goes on failing is such an end for us.
func (v *vigil) keep(ctx context.Context) (proto.TxnStatus, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer v.work.Wait()
	defer cancel()
	v.start(ctx, watchMain, v.watchMain)
	var (
		main                *ending
		vantage, confirming bool
		// asked says that the host has asked for a confirmation, so that it is tried to be reached anyway.
		asked           bool
		grace, retrying <-chan time.Time
		quiet           <-chan time.Time
	)
	if len(v.ways) > 1 {
		ticker := time.NewTicker(silence / 4)
		defer ticker.Stop()
		quiet = ticker.C
	}
	for {
		select {
		case state := <-v.states:
			v.tell(state)
			v.mu.Lock()
			v.over = confirming && state != proto.TxnAwaitConfirm
			v.mu.Unlock()
			switch {
			case state == proto.TxnAwaitConfirm && !v.policy.SelfConfirm && !confirming:
				confirming, asked = true, true
				v.start(ctx, watchConfirm, v.confirm)
			case state == proto.TxnRollbackFailed && retrying == nil:
				retrying = time.After(v.h.limits.StillTrying)
			}
		case err := <-v.lost:
			v.h.emit(plan.Event{Kind: plan.EventProgress, Message: "the connection is lost, the host goes on by itself: " + err.Error()})
			if !confirming {
				v.mu.Lock()
				v.cut = err
				v.mu.Unlock()
			}
			if len(v.ways) > 1 && !vantage {
				vantage = true
				v.start(ctx, watchVantage, v.watchVantages)
			}
		case <-quiet:
			if v.quietFor() > silence && !vantage && !asked {
				vantage = true
				v.start(ctx, watchVantage, v.watchVantages)
			}
		case end := <-v.ends:
			switch {
			case end.who == watchConfirm && end.err != nil:
				confirming = false
				v.mu.Lock()
				v.unconfirmed = end.err
				v.mu.Unlock()
			case end.who == watchVantage && end.err != nil:
				vantage = false
			case end.err != nil, end.who == watchConfirm, !confirming:
				return end.status, end.err
			case main == nil:
				main = &end
				grace = time.After(lastWord)
			}
			if main != nil && !confirming {
				return main.status, nil
			}
		case <-grace:
			return main.status, nil
		case <-retrying:
			return v.unsettled(ctx), nil
		}
	}
}

// start runs a watcher whose end is told.
func (v *vigil) start(ctx context.Context, who watcher, f func(context.Context) (proto.TxnStatus, error)) {
	v.work.Go(func() {
		status, err := f(ctx)
		// Each of the watchers begins anew only after its end was taken, so there is always room.
		v.ends <- ending{who: who, status: status, err: err}
	})
}

// tell says what the host does now.
func (v *vigil) tell(state proto.TxnState) {
	event := plan.Event{Kind: plan.EventProgress, Message: PhaseText(state)}
	switch state {
	case proto.TxnRollingBack, proto.TxnRollbackReboot, proto.TxnRollbackFailed:
		event.Kind = plan.EventWarning
	}
	if event.Message != "" {
		v.h.emit(event)
	}
}

// PhaseText is what a state of a transaction means for a person, while it lasts; empty where that is nothing.
func PhaseText(state proto.TxnState) string {
	switch state {
	case proto.TxnSwitching:
		return "activating"
	case proto.TxnJudging:
		return "looking at units and health"
	case proto.TxnAwaitConfirm:
		return "waits for a confirmation over a new connection"
	case proto.TxnCommitting:
		return "confirmed, becomes what boots"
	case proto.TxnStaging:
		return "preparing the next boot"
	case proto.TxnRebooting:
		return "the host reboots"
	case proto.TxnRollingBack:
		return "going back to the old system"
	case proto.TxnRollbackReboot:
		return "going back to the old system by a reboot"
	case proto.TxnVerifying:
		return "looking whether the old system runs and boots"
	case proto.TxnRollbackFailed:
		return "THE OLD SYSTEM DOES NOT STAND YET; the host tries again and again"
	}
	return ""
}

// notice takes the events of one connection; log may be nil.
func (v *vigil) notice(ctx context.Context, log *run.LineWriter) func(proto.TxnEvent) {
	return func(e proto.TxnEvent) {
		v.mu.Lock()
		v.seen = time.Now()
		v.mu.Unlock()
		if log != nil {
			// A LineWriter's Write never fails.
			_, _ = log.Write([]byte(e.Log))
		}
		if e.State == "" || e.State.Done() {
			return
		}
		select {
		case v.states <- e.State:
		case <-ctx.Done():
		}
	}
}

// patience is how long a host may stay away before it is given up: its guard is done by then, whatever has happened.
func (v *vigil) patience() time.Duration {
	if v.h.limits.Away > 0 {
		return v.h.limits.Away
	}
	p := v.policy
	sum := p.SwitchSeconds + p.SettleSeconds + p.SoakSeconds + max(p.ConfirmSeconds, p.BootConfirmSeconds) + p.RollbackSeconds
	return time.Duration(sum)*time.Second + rebootTime
}

// quietFor is how long the host has said nothing.
func (v *vigil) quietFor() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Since(v.seen)
}

// away says whether the host has been away for too long.
func (v *vigil) away() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Since(v.seen) > v.patience()
}

// watchMain follows the transaction over the session that has begun it, for as long as the host can come back.
func (v *vigil) watchMain(ctx context.Context) (proto.TxnStatus, error) {
	log := run.NewLineWriter(func(line string) { v.h.emit(plan.Event{Kind: plan.EventLog, Message: line}) })
	defer log.Flush()
	watch := &push.Watch{Txn: v.h.report.Txn, Each: v.notice(ctx, log), Lost: func(err error) {
		select {
		case v.lost <- err:
		case <-ctx.Done():
		}
	}}
	for try := 0; ; try++ {
		status, err := v.h.session.Watch(ctx, watch)
		if err == nil || ctx.Err() != nil || answered(err) || v.away() {
			return status, err
		}
		if try == 0 {
			v.h.emit(plan.Event{Kind: plan.EventWarning, Message: "the host is away, its guard goes on without us; trying to reach it: " + loss(err).Error()})
		}
		pause(ctx, try)
	}
}

// loss is why a connection was lost, without what is said of it elsewhere.
func loss(err error) error {
	if detached, ok := errors.AsType[*push.DetachedError](err); ok {
		return detached.Err
	}
	return err
}

// answered says whether an error is the host's answer, so that asking again is of no use.
func answered(err error) bool {
	if _, locked := errors.AsType[*push.LockedError](err); locked {
		return true
	}
	answer, ok := errors.AsType[*push.AgentError](err)
	return ok && answer.Code != proto.CodeInternal
}

// watchVantages follows the transaction through the first vantage that leads to the host, beside the direct tries.
func (v *vigil) watchVantages(ctx context.Context) (proto.TxnStatus, error) {
	for try := 0; ; try++ {
		err := errNoVantage
		for _, w := range v.ways[1:] {
			var status proto.TxnStatus
			if status, err = v.watchBy(ctx, w); err == nil {
				return status, nil
			}
		}
		if ctx.Err() != nil || v.away() {
			return proto.TxnStatus{}, err
		}
		pause(ctx, try)
	}
}

var errNoVantage = errors.New("no vantage leads to the host")

func (v *vigil) watchBy(ctx context.Context, w way) (proto.TxnStatus, error) {
	session, err := v.h.session.Again(ctx, w.spec)
	if err != nil {
		return proto.TxnStatus{}, err
	}
	defer session.Close() // the connection was for looking alone
	v.h.emit(plan.Event{Kind: plan.EventProgress, Message: fmt.Sprintf("reached through %q", w.vantage)})
	return session.Watch(ctx, &push.Watch{Txn: v.h.report.Txn, Each: v.notice(ctx, nil)})
}

// pause waits before another try.
func pause(ctx context.Context, try int) {
	wait := firstPause
	for range try {
		if wait *= 2; wait >= lastPause {
			wait = lastPause
			break
		}
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

// unsettled is the status of a transaction whose rollback goes on failing.
func (v *vigil) unsettled(ctx context.Context) proto.TxnStatus {
	ctx, cancel := context.WithTimeout(ctx, v.h.limits.Begin)
	defer cancel()
	status, err := v.h.session.Status(ctx, v.h.report.Txn)
	if err != nil || status.Txn == "" {
		status = proto.TxnStatus{
			Txn: v.h.report.Txn, State: proto.TxnRollbackFailed, Action: v.h.request.Action.onHost(), Toplevel: v.h.want.toplevel, Step: "rollback",
			Reason: "the host cannot say more at the moment",
		}
	}
	return status
}

// whyUnconfirmed is why a transaction that went back, or did not, was not confirmed, where that was for us to do and the host does not know it.
func (v *vigil) whyUnconfirmed(status proto.TxnStatus) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var unhealthy *HealthError
	switch why := v.unconfirmed; {
	case status.State.Succeeded(), errors.As(why, &unhealthy):
		return nil
	case why != nil && !errors.Is(why, errTooLate) && !errors.Is(why, context.Canceled):
		return why
	case v.cut != nil && strings.Contains(status.Reason, "confirm"):
		return fmt.Errorf("the host was away since the switch: %w", v.cut)
	}
	return nil
}
