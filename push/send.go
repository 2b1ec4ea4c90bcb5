package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"fleet/closure"
	"fleet/closure/pack"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// maxAck bounds a line that a host reports, in bytes.
	maxAck = 4 << 10
	// lastWords is how long is waited for why a transfer has ended, after one of its channels has.
	lastWords = 5 * time.Second
)

// errForgotten says that the agent does not know a transfer any more.
var errForgotten = errors.New("the agent has forgotten the transfer")

// errOver says that the host has ended a transfer; its result says why.
var errOver = errors.New("the host has ended the transfer")

// send sends the shipment, or what is left of it, and returns when the host has registered all of its paths.
func (t *transfer) send(ctx context.Context, l *link) error {
	s := &sending{t: t, l: l, shipment: t.shipment}
	s.shipment.level = t.order()
	defer func() {
		received, _ := t.shipment.moved()
		t.units = max(t.units, received)
	}()
	request := s.shipment.begin(t.s.c.units(), l.rtt())
	defer s.shipment.end()
	client, err := l.data(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	s.main, err = client.Open(ctx, proto.MethodImport, request)
	if err != nil {
		return err
	}
	defer s.main.Cancel()
	if err := s.run(ctx, began); err != nil {
		return t.damage(ctx, err)
	}
	if left := s.shipment.left(); len(left) > 0 {
		return fmt.Errorf("push to %q: the agent did not report %d paths", t.s.spec.Target.Host, len(left))
	}
	t.progress.flush()
	return nil
}

// order is that of a unit of the level that was configured, or of any, without the unit.
func (t *transfer) order() order {
	if level := t.s.c.Level; level != 0 {
		return order{level: levelOf(level), exact: true}
	}
	return order{}
}

// sending is a shipment under way over one connection.
type sending struct {
	t        *transfer
	l        *link
	shipment *shipment
	main     *proto.Stream
	// channels is how many are open, most how many there may be.
	channels, most atomic.Int64
	group          *errgroup.Group
}

// run sends units until all were received, and listens meanwhile to what the host reports. Where the first attempt begins needs no answer.
func (s *sending) run(ctx context.Context, began time.Time) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		err := s.listen(began, ready)
		if err != nil && !isAnswer(err) {
			s.main.Cancel()
		}
		cancel(errOver)
		ended <- err
	}()
	if s.shipment.attempt > 1 {
		select {
		case <-ready:
		case err := <-ended:
			return s.refused(err)
		}
	}
	sendErr := s.sendAll(ctx)
	if sendErr != nil && !errors.Is(sendErr, errOver) && !errors.Is(sendErr, proto.ErrEnded) && !isAnswer(sendErr) {
		s.main.Cancel()
		<-ended
		return sendErr
	}
	if sendErr != nil {
		// Whichever channel it was, the first one says why.
		defer time.AfterFunc(lastWords, s.main.Cancel).Stop()
	}
	return s.outcome(sendErr, <-ended)
}

// outcome is how a transfer has ended whose sending and whose report have.
func (s *sending) outcome(sendErr, listenErr error) error {
	if listenErr != nil && !isAnswer(listenErr) {
		return listenErr
	}
	err := s.main.Result(nil)
	switch {
	case proto.CodeOf(err) == proto.CodeCancelled && isAnswer(sendErr):
		return sendErr
	case err != nil:
		return err
	case sendErr != nil:
		return fmt.Errorf("push to %q: the agent ended the transfer early", s.t.s.spec.Target.Host)
	}
	return nil
}

// refused is why the host does not go on with the transfer; err is how its report ended.
func (s *sending) refused(err error) error {
	if err == nil {
		if err = s.main.Result(nil); err == nil {
			err = fmt.Errorf("push to %q: the agent ended the transfer before it began", s.t.s.spec.Target.Host)
		}
	}
	if proto.CodeOf(err) == proto.CodeNotFound {
		return errForgotten
	}
	return err
}

// listen reads what the host reports. ready is closed once it says where to begin.
func (s *sending) listen(began time.Time, ready chan<- struct{}) error {
	begun := false
	err := eachLine(s.main, maxAck, func(line []byte) error {
		var event proto.ImportEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return err
		}
		if begun {
			return s.event(event)
		}
		if event.Next == nil {
			return errors.New("it does not say where to begin")
		}
		begun = true
		s.l.roundTrip(time.Since(began))
		if err := s.shipment.expects(*event.Next); err != nil {
			return err
		}
		close(ready)
		return nil
	})
	if err != nil && !isAnswer(err) {
		return fmt.Errorf("push to %q: read what the host reports: %w", s.t.s.spec.Target.Host, err)
	}
	return err
}

// isAnswer says whether err is one that an agent has sent.
func isAnswer(err error) bool {
	_, ok := errors.AsType[*proto.Error](err)
	return ok
}

func (s *sending) event(event proto.ImportEvent) error {
	switch {
	case event.Path != "":
		info, err := s.shipment.path(event.Path)
		if err != nil {
			return err
		}
		s.t.progress.path(info.NarSize)
	case event.Received > 0:
		if err := s.shipment.ack(event.Received, time.Now()); err != nil {
			return err
		}
		s.t.progress.tick()
	}
	return nil
}

// sendAll sends all units, over more channels where the link needs them, and then their end.
func (s *sending) sendAll(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	attempt := s.shipment.attempt
	defer context.AfterFunc(groupCtx, func() { s.shipment.stop(attempt, context.Cause(groupCtx)) })()
	s.group = group
	s.channels.Store(1)
	s.most.Store(proto.MaxChannels)
	units := proto.NewUnitWriter(s.main)
	group.Go(func() error { return s.write(groupCtx, units, true) })
	if err := group.Wait(); err != nil {
		return err
	}
	if err := units.End(uint32(len(s.shipment.cargo.specs))); err != nil {
		return err
	}
	return s.main.CloseWrite()
}

// write sends units over one channel until none is left.
func (s *sending) write(ctx context.Context, w *proto.UnitWriter, first bool) error {
	for {
		channels := int(s.channels.Load())
		number, job, err := s.shipment.take(channels)
		if err != nil || job == nil {
			return err
		}
		err = s.writeUnit(ctx, w, number, job)
		s.shipment.shop.release(job)
		if err != nil {
			return err
		}
		if first && s.shipment.wantsChannels(channels, s.l.rtt()) > channels && s.channels.Load() < s.most.Load() {
			s.grow(ctx)
		}
	}
}

func (s *sending) writeUnit(ctx context.Context, w *proto.UnitWriter, number int, job *work) error {
	unit, err := s.shipment.shop.wait(ctx, job)
	if err != nil {
		return err
	}
	s.shipment.sending(number, len(unit.Bytes), time.Now())
	return w.Unit(uint32(number), unit.Bytes)
}

// grow opens one channel more. Where the server allows no more, those that are there have to do.
func (s *sending) grow(ctx context.Context) {
	number := int(s.channels.Add(1)) - 1
	request := proto.ImportRequest{Transfer: s.shipment.id, Attempt: s.shipment.attempt, Channel: number}
	s.group.Go(func() error {
		client, err := s.l.attach(ctx)
		if err != nil {
			s.most.Store(int64(number))
			return nil
		}
		defer client.Close()
		stream, err := client.Open(ctx, proto.MethodImport, request)
		if err != nil {
			return err
		}
		defer stream.Cancel()
		if err := s.write(ctx, proto.NewUnitWriter(stream), false); err != nil && !errors.Is(err, proto.ErrEnded) {
			return err
		}
		if err := stream.CloseWrite(); err != nil {
			return err
		}
		if err := stream.Result(nil); err != nil {
			return err
		}
		return nil
	})
}

// damage makes refusals of data, and failures to read our own, into errors that name the path and say whose copy is damaged.
func (t *transfer) damage(ctx context.Context, err error) error {
	var path storepath.Path
	reason := err.Error()
	answer, answered := errors.AsType[*proto.Error](err)
	unreadable, isOurs := errors.AsType[*pack.ReadError](err)
	switch {
	case ctx.Err() != nil:
		return err
	case isOurs:
		path = unreadable.Path
	case answered && answer.Code == proto.CodeCorrupt:
		path, reason = errorPath(answer), oneLine(answer.Message)
		if left := t.shipment.left(); path.IsZero() && len(left) > 0 {
			path = left[0].Path
		}
	default:
		return err
	}
	if err := t.verify(ctx, path); err != nil {
		return err
	}
	if isOurs {
		return err
	}
	return &CorruptError{Host: t.s.spec.Target.Host, Path: path, Reason: reason}
}

// verify reads our own copy of a path, and says whether it is as it should be.
func (t *transfer) verify(ctx context.Context, path storepath.Path) error {
	info, ok := t.graph.Info(path)
	if !ok {
		return nil
	}
	check := closure.NewVerifier()
	if err := t.s.c.Source.NAR(ctx, path, check); err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	if err := check.Check(info); err != nil {
		return &CorruptError{Path: path, Reason: err.Error()}
	}
	return nil
}

func pathStrings(paths []storepath.Path) []string {
	texts := make([]string, len(paths))
	for i, p := range paths {
		texts[i] = p.String()
	}
	return texts
}
