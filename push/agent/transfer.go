package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"fleet/closure/buffer"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// unitPatience is how long a unit may be missing while no channel can bring it. A new channel is opened in less.
	unitPatience = 30 * time.Second
	// ackBatch is how many paths are reported at once.
	ackBatch = 256
)

// transfer is one push: its units come over channels, and go to an intake in order. It lives in the session, whatever becomes of the connections, until
// it has ended; how that was is kept until another one is opened, since the connection may have been lost just before.
type transfer struct {
	name     string
	patience time.Duration
	// cancel ends the taking of units, for a reason that is the transfer's error then.
	cancel context.CancelCauseFunc

	mu sync.Mutex
	// changed is closed, and replaced, when something below changes.
	changed chan struct{}
	// attempt numbers the times that channel 0 was opened, and attached are the channels of the last one.
	attempt  int
	attached map[int]*channel
	units    reorder
	// memory is that of units.
	memory buffer.Pool
	// acks are the paths that are registered, in that order.
	acks  []storepath.Path
	ended bool
	// result and err are set when it ends.
	result proto.ImportResult
	err    error
}

func newTransfer(name string, patience time.Duration, cancel context.CancelCauseFunc) *transfer {
	return &transfer{name: name, patience: patience, cancel: cancel, changed: make(chan struct{}), attached: make(map[int]*channel)}
}

// lock locks the transfer for a change that others wait for.
func (t *transfer) lock() (unlock func()) {
	t.mu.Lock()
	return func() {
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
	}
}

var (
	errSuperseded = proto.Errorf(proto.CodeCancelled, "another connection goes on with the transfer")
	errAbandoned  = proto.Errorf(proto.CodeCancelled, "another transfer has begun")
	errNotOpen    = proto.Errorf(proto.CodeCancelled, "channel 0 of the transfer is not open in this attempt")
)

// attach makes a channel one of the transfer's, and says which unit should come next. Channel 0 cuts off the channels of earlier attempts.
func (t *transfer) attach(ch *channel, req proto.ImportRequest) (next uint32, err error) {
	defer t.lock()()
	if ch.number > 0 {
		if t.attached[0] == nil || req.Attempt != t.attempt {
			return 0, errNotOpen
		}
		if t.attached[ch.number] != nil {
			return 0, proto.Errorf(proto.CodeUsage, "channel %d of the transfer is open already", ch.number)
		}
		t.attached[ch.number] = ch
		return 0, nil
	}
	if req.Attempt <= t.attempt {
		return 0, errSuperseded
	}
	if req.Acked > len(t.acks) {
		return 0, proto.Errorf(proto.CodeUsage, "%d paths were reported, not %d", len(t.acks), req.Acked)
	}
	for _, old := range t.attached {
		old.superseded = true
		old.stream.Cancel()
	}
	t.attempt, t.attached = req.Attempt, map[int]*channel{0: ch}
	return t.units.restart(), nil
}

// detach forgets a channel that has ended.
func (t *transfer) detach(ch *channel) {
	defer t.lock()()
	if t.current(ch) {
		delete(t.attached, ch.number)
	}
}

// current says whether a channel was not superseded or detached. The lock is held.
func (t *transfer) current(ch *channel) bool { return t.attached[ch.number] == ch }

// answer is the error that a channel ends with; err is that of its connection.
func (t *transfer) answer(ch *channel, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case ch.superseded:
		return errSuperseded
	case t.ended:
		return t.err
	}
	return err
}

// state says whether nobody has the transfer open any more, whether it has ended, and until when that holds.
func (t *transfer) state() (abandoned, ended bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// Before its first attempt, somebody is about to open it.
	return t.attempt > 0 && t.attached[0] == nil, t.ended, t.changed
}

// abandonUnused ends a transfer whose first channel could not be attached.
func (t *transfer) abandonUnused() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attempt == 0 {
		t.cancel(errAbandoned)
	}
}

// admit waits until there is room for a unit.
func (t *transfer) admit(ctx context.Context, ch *channel, head proto.UnitHead) error {
	for {
		ok, changed, err := t.tryAdmit(ch, head)
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *transfer) tryAdmit(ch *channel, head proto.UnitHead) (ok bool, changed <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.current(ch) || t.ended {
		return false, nil, errSuperseded
	}
	ok, err = t.units.admit(head.Number, head.Length)
	if waits := !ok && err == nil; waits != ch.waits {
		ch.waits = waits
		// Whoever looks for a unit that nobody can bring wants to know.
		close(t.changed)
		t.changed = make(chan struct{})
	}
	return ok, t.changed, err
}

func (t *transfer) put(ch *channel, number uint32, unit []byte) {
	defer t.lock()()
	if t.current(ch) {
		t.units.put(number, unit)
	}
}

func (t *transfer) withdraw(ch *channel, number uint32) {
	defer t.lock()()
	if t.current(ch) {
		t.units.withdraw(number)
	}
}

// finished says that a channel brings nothing more.
func (t *transfer) finished(ch *channel) {
	defer t.lock()()
	ch.done = true
}

// finishUnits takes the end of the units.
func (t *transfer) finishUnits(ch *channel, units uint32) error {
	defer t.lock()()
	if !t.current(ch) {
		return errSuperseded
	}
	if ch.number > 0 {
		return fmt.Errorf("the end of the units came over channel %d", ch.number)
	}
	ch.done = true
	return t.units.finish(units)
}

// failFrom ends the transfer for what came over a channel.
func (t *transfer) failFrom(ch *channel, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current(ch) {
		t.cancel(err)
	}
}

// take waits for the next unit. It returns nil where there are no more.
func (t *transfer) take(ctx context.Context) ([]byte, error) {
	for {
		unit, missing, changed := t.tryTake()
		if unit != nil || missing == nil {
			return unit, nil
		}
		var patience <-chan time.Time
		if missing.nobody {
			patience = time.After(t.patience)
		}
		select {
		case <-changed:
		case <-patience:
			return nil, proto.Errorf(proto.CodeCorrupt, "unit %d of the push has not come", missing.number)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// gap is a unit that has not come; nobody says that no channel can bring it.
type gap struct {
	number uint32
	nobody bool
}

func (t *transfer) tryTake() ([]byte, *gap, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.units.complete() {
		return nil, nil, nil
	}
	if unit, ok := t.units.take(); ok {
		close(t.changed)
		t.changed = make(chan struct{})
		return unit, nil, nil
	}
	// Without channel 0 the client has gone, and may come back.
	nobody := t.attached[0] != nil
	for _, ch := range t.attached {
		nobody = nobody && (ch.waits || ch.done)
	}
	return nil, &gap{t.units.next, nobody}, t.changed
}

// used says that the unit that was taken last is not needed any more.
func (t *transfer) used() {
	defer t.lock()()
	t.units.done()
}

// registered notes a path that is registered.
func (t *transfer) registered(path storepath.Path) {
	defer t.lock()()
	t.acks = append(t.acks, path)
}

// end notes how the transfer has ended, and lets go of what it holds.
func (t *transfer) end(result proto.ImportResult, err error) {
	defer t.lock()()
	t.ended, t.result, t.err = true, result, err
	t.units.held, t.units.coming = nil, nil
	for _, ch := range t.attached {
		if ch.number > 0 {
			ch.stream.Cancel()
		}
	}
}

// news is what a client has not heard of yet.
type news struct {
	received uint32
	acks     []storepath.Path
}

func (t *transfer) news(said reported) (n news, changed <-chan struct{}, ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n = news{received: t.units.received(), acks: t.acks[said.acked:min(len(t.acks), said.acked+ackBatch)]}
	return n, t.changed, t.ended
}

// transferFor finds the transfer that a channel belongs to, or opens it.
func (s *session) transferFor(ctx context.Context, req proto.ImportRequest) (*transfer, error) {
	for {
		t, changed, err := s.tryTransfer(req)
		if t != nil || err != nil {
			return t, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryTransfer is transferFor, but does not wait where another transfer is open. It ends one that nobody goes on with.
func (s *session) tryTransfer(req proto.ImportRequest) (*transfer, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.transfer
	switch {
	case s.ctx.Err() != nil:
		return nil, nil, context.Cause(s.ctx)
	case last != nil && last.name == req.Transfer:
		return last, nil, nil
	case req.Channel > 0 || req.Attempt > 1:
		return nil, nil, proto.Errorf(proto.CodeNotFound, "the agent does not know the transfer: it is another one than before")
	}
	if last != nil {
		abandoned, ended, changed := last.state()
		if abandoned && !ended {
			last.cancel(errAbandoned)
		}
		if !ended {
			return nil, changed, nil
		}
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	s.transfer = newTransfer(req.Transfer, s.patience, cancel)
	t := s.transfer
	s.work.Go(func() {
		defer cancel(nil)
		s.runTransfer(ctx, t, req)
	})
	return t, nil, nil
}

// runTransfer takes units in order, until they or the transfer end.
func (s *session) runTransfer(ctx context.Context, t *transfer, req proto.ImportRequest) {
	in := s.openIntake(ctx, req, t.registered)
	err := t.feed(ctx, in)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	result, err := in.close(s.ctx, err)
	t.end(result, err)
}

// feed hands units to an intake, to the last one.
func (t *transfer) feed(ctx context.Context, in *intake) error {
	for {
		unit, err := t.take(ctx)
		if err != nil {
			return err
		}
		if unit == nil {
			return in.unpacker.End()
		}
		err = in.unpacker.Unit(unit)
		t.memory.Put(unit)
		t.used()
		if err != nil {
			return err
		}
	}
}
