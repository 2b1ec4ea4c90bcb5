package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
)

// confirmMargin is how long before the guard's deadline no new try to confirm begins.
const confirmMargin = 20 * time.Second

// headStart is how long the direct way is tried before vantages are tried beside it.
const headStart = 5 * time.Second

// margin is less where the whole time is short.
func margin(whole time.Duration) time.Duration { return min(confirmMargin, whole/4) }

// errTooLate says that the guard does not wait for a confirmation any more.
var errTooLate = errors.New("the host does not wait for a confirmation any more")

// confirm tries to confirm over connections that are made anew, until shortly before the guard's deadline, and returns how the transaction
// ended. Through vantages it is tried where the host cannot be reached from here.
func (v *vigil) confirm(ctx context.Context) (proto.TxnStatus, error) {
	seconds := v.policy.ConfirmSeconds
	if v.h.request.Action == ActionReboot {
		seconds = v.policy.BootConfirmSeconds
	}
	whole := time.Duration(seconds) * time.Second
	c := &confirmation{vigil: v, until: time.Now().Add(whole - margin(whole)), whole: ctx}
	var last error
	for try := 0; ; try++ {
		status, err := c.round(ctx)
		if err != nil && last != nil && !time.Now().Before(c.deadline()) {
			err = last // that the time is up says less
		}
		last = err
		v.mu.Lock()
		over := v.over
		v.mu.Unlock()
		if err == nil || ctx.Err() != nil || errors.Is(err, errTooLate) || over || !time.Now().Before(c.deadline()) {
			return status, err
		}
		if err.Error() != c.said {
			c.said = err.Error()
			v.h.emit(plan.Event{Kind: plan.EventWarning, Message: fmt.Sprintf("not confirmed yet, trying for another %s: %v", time.Until(c.deadline()).Round(time.Second), err)})
		}
		pause(ctx, try)
		if !time.Now().Before(c.deadline()) {
			return proto.TxnStatus{}, err
		}
	}
}

// confirmation is what is known across tries to confirm.
type confirmation struct {
	*vigil
	until time.Time
	// whole is the context of what follows a confirmation: the commit has a limit of its own.
	whole context.Context
	// said is the last complaint.
	said string
}

// round tries each way once: the direct one, and, where that does not reach the host or takes its time to, the vantages one after the other.
func (c *confirmation) round(ctx context.Context) (proto.TxnStatus, error) {
	ctx, cancel := context.WithDeadline(ctx, c.deadline())
	defer cancel()
	ends := make(chan ending, 2)
	c.along(ctx, ends, c.ways[:1])
	var vantages <-chan time.Time
	if len(c.ways) > 1 {
		vantages = time.After(min(headStart, time.Until(c.deadline())/4))
	}
	var first error
	for under := 1; under > 0; {
		var end ending
		select {
		case <-vantages:
			vantages = nil
			under++
			c.along(ctx, ends, c.ways[1:])
			continue
		case end = <-ends:
			under--
		}
		if end.err == nil || errors.Is(end.err, errTooLate) {
			return end.status, end.err
		}
		if first == nil {
			first = end.err
		}
		// Another way is for a host that only we cannot reach, and not for one that does not let us in.
		if vantages != nil && push.Unreachable(end.err) && ctx.Err() == nil {
			vantages = nil
			under++
			c.along(ctx, ends, c.ways[1:])
			continue
		}
		vantages = nil
	}
	return proto.TxnStatus{}, first
}

// along tries ways one after the other, beside whoever calls.
func (c *confirmation) along(ctx context.Context, ends chan<- ending, ways []way) {
	c.work.Go(func() {
		var end ending
		for _, w := range ways {
			end.status, end.err = c.by(ctx, w)
			if end.err == nil || errors.Is(end.err, errTooLate) || ctx.Err() != nil {
				break
			}
		}
		ends <- end
	})
}

// deadline is until when a confirmation is tried.
func (c *confirmation) deadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.until
}

// shorten takes what the host says is left.
func (c *confirmation) shorten(left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := time.Now().Add(left - margin(left)); until.Before(c.until) {
		c.until = until
	}
}

// by confirms over one new connection, and reads the end of the transaction over it.
func (c *confirmation) by(ctx context.Context, w way) (proto.TxnStatus, error) {
	session, err := c.h.session.Again(ctx, w.spec)
	if err != nil {
		return proto.TxnStatus{}, err
	}
	defer session.Close() // the result is known by then
	if w.vantage != "" {
		c.h.emit(plan.Event{Kind: plan.EventWarning, Message: fmt.Sprintf("the host cannot be reached from here; confirming through %q", w.vantage)})
	}
	txn := c.h.report.Txn
	status, err := session.Status(ctx, txn)
	switch {
	case err != nil:
		return status, err
	case status.State != proto.TxnAwaitConfirm && status.State != proto.TxnCommitting && !status.State.Succeeded():
		return status, fmt.Errorf("%w: it is %s", errTooLate, status.State)
	}
	if status.State == proto.TxnAwaitConfirm && status.DeadlineSeconds > 0 {
		c.shorten(time.Duration(status.DeadlineSeconds) * time.Second)
	}
	if status.State == proto.TxnAwaitConfirm {
		if err := c.exchange(ctx, session); err != nil {
			return c.refused(ctx, session, err)
		}
	}
	return c.end(session)
}

// exchange proves that the host can be deployed to again, has the others look at it, and tells its guard.
func (c *confirmation) exchange(ctx context.Context, session Session) error {
	nonce, err := session.Nonce(ctx, c.h.report.Txn)
	if err != nil {
		return err
	}
	if err := c.examine(ctx); err != nil {
		return err
	}
	return session.Confirm(ctx, c.h.report.Txn, nonce)
}

// refused says what a failed exchange means: a check that has failed asks for the old system, at once.
func (c *confirmation) refused(ctx context.Context, session Session, err error) (proto.TxnStatus, error) {
	var unhealthy *HealthError
	if errors.As(err, &unhealthy) && ctx.Err() == nil {
		c.h.emit(plan.Event{Kind: plan.EventWarning, Message: err.Error() + "; asking for the old system"})
		if _, err := session.Abort(c.whole, c.h.report.Txn, unhealthy.reason()); err != nil {
			c.h.emit(plan.Event{Kind: plan.EventWarning, Message: fmt.Sprintf("the host was asked to go back, and answers: %v", err)})
		}
		return c.end(session)
	}
	if answer, ok := errors.AsType[*push.AgentError](err); ok && answer.Code == proto.CodeTooLate {
		// Either our own confirmation, whose answer was lost, or nobody waits any more, or not yet.
		status, statusErr := session.Status(ctx, c.h.report.Txn)
		switch {
		case statusErr != nil || status.State == proto.TxnAwaitConfirm:
			return status, err
		case status.State == proto.TxnCommitting || status.State.Succeeded():
			return c.end(session)
		}
		return status, errTooLate
	}
	return proto.TxnStatus{}, err
}

// end reads how the transaction ends, over the connection that has confirmed it.
func (c *confirmation) end(session Session) (proto.TxnStatus, error) {
	status, err := session.Watch(c.whole, &push.Watch{Txn: c.h.report.Txn, Each: c.notice(c.whole, nil)})
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.h.afterwards(session.Info())
	}
	return status, err
}
