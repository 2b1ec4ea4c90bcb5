package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"fleet/closure/pack"
	"fleet/push/proto"
)

// channel is one stream that carries units of a transfer.
type channel struct {
	number int
	stream *proto.Stream
	// waits says that its next unit has to wait for others, and done that it has said all. They and superseded are the transfer's to lock.
	waits, done, superseded bool
}

// importUnits serves one channel of a transfer: it takes units, and on channel 0 it reports, and answers with the transfer's result.
func (s *session) importUnits(ctx context.Context, req proto.ImportRequest, stream *proto.Stream) (any, error) {
	if err := checkImport(req); err != nil {
		return nil, proto.Errorf(proto.CodeUsage, "import: %v", err)
	}
	t, err := s.transferFor(ctx, req)
	if err != nil {
		return nil, err
	}
	ch := &channel{number: req.Channel, stream: stream}
	next, err := t.attach(ch, req)
	if err != nil {
		t.abandonUnused()
		return nil, err
	}
	defer t.detach(ch)
	if ch.number > 0 {
		return nil, t.answer(ch, t.receive(ctx, ch))
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_ = t.receive(ctx, ch) // where the connection is lost, reporting ends too
	}()
	err = t.report(ctx, ch, reported{received: next, acked: req.Acked})
	stream.Cancel() // nobody reads it any more; the result is sent all the same
	<-read
	if err := t.answer(ch, err); err != nil {
		return nil, err
	}
	return t.result, nil
}

// checkImport checks what a client says of a channel.
func checkImport(req proto.ImportRequest) error {
	switch {
	case len(req.Transfer) < 16 || len(req.Transfer) > 64 || !plainName(req.Transfer):
		return fmt.Errorf("%.80q is no name of a transfer", req.Transfer)
	case req.Channel < 0 || req.Channel >= proto.MaxChannels:
		return fmt.Errorf("there is no channel %d, only 0 to %d", req.Channel, proto.MaxChannels-1)
	case req.Attempt < 1:
		return fmt.Errorf("there is no attempt %d", req.Attempt)
	case req.Acked < 0:
		return fmt.Errorf("%d paths cannot have been reported", req.Acked)
	}
	return nil
}

// receive reads units until the channel ends. What is wrong with them fails the transfer; what is wrong with the connection is the error.
func (t *transfer) receive(ctx context.Context, ch *channel) error {
	err := t.receiveUnits(ctx, ch)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if err = streamError(err); proto.CodeOf(err) == proto.CodeCorrupt {
		t.failFrom(ch, err)
	}
	return err
}

// streamError is the code of what could not be read: the stream's own error, or contents that are not in the format.
func streamError(err error) error {
	if _, ok := errors.AsType[*proto.Error](err); ok || errors.Is(err, proto.ErrLost) || errors.Is(err, context.Canceled) {
		return err
	}
	return proto.Errorf(proto.CodeCorrupt, "%v", err)
}

var errCut = errors.New("the units of the push end before they are complete")

func (t *transfer) receiveUnits(ctx context.Context, ch *channel) error {
	units := proto.NewUnitReader(ch.stream, pack.MaxUnit)
	for {
		head, err := units.Next()
		switch {
		case err == io.EOF && ch.number == 0:
			return errCut
		case err == io.EOF:
			t.finished(ch)
			return nil
		case err != nil:
			return err
		case head.Length == 0:
			return t.finishUnits(ch, head.Number)
		}
		if err := t.admit(ctx, ch, head); err != nil {
			return err
		}
		unit := t.memory.Get(uint64(head.Length))
		if err := units.Fill(unit); err != nil {
			t.memory.Put(unit)
			t.withdraw(ch, head.Number)
			return err
		}
		t.put(ch, head.Number, unit)
	}
}

// reported is how much of a transfer a client has heard of: units, and paths.
type reported struct {
	received uint32
	acked    int
}

// report says on channel 0 what the transfer does. It returns nil once the transfer has ended and all of it was said.
func (t *transfer) report(ctx context.Context, ch *channel, said reported) error {
	lines := newEventLines()
	lines.add(proto.ImportEvent{Next: &said.received})
	for {
		news, changed, ended := t.news(said)
		if news.received > said.received {
			lines.add(proto.ImportEvent{Received: news.received})
			said.received = news.received
		}
		for _, path := range news.acks {
			lines.add(proto.ImportEvent{Path: path.String()})
		}
		said.acked += len(news.acks)
		if lines.text.Len() > 0 {
			if _, err := lines.text.WriteTo(ch.stream); err != nil {
				return err
			}
			continue
		}
		if ended {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// eventLines collects lines that are sent at once.
type eventLines struct {
	text    *bytes.Buffer
	encoder *json.Encoder
}

func newEventLines() eventLines {
	text := new(bytes.Buffer)
	return eventLines{text, json.NewEncoder(text)}
}

// add cannot fail: an event is a number or a text.
func (l eventLines) add(event proto.ImportEvent) { _ = l.encoder.Encode(event) }
