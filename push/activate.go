package push

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"fleet/closure/run"
	"fleet/push/proto"
)

// maxEvent bounds one line of an attached transaction, in bytes.
const maxEvent = 1 << 20

// Begin opens a transaction on the host and returns its name. It is not repeated blindly: where the connection breaks
// before the answer, the host is asked whether the transaction exists. A [*LockedError] means that another one holds the host.
func (s *Session) Begin(ctx context.Context, request proto.BeginRequest) (string, error) {
	before, err := s.newest(ctx)
	if err != nil {
		return "", err
	}
	var result proto.BeginResult
	tried := false
	err = s.resume(ctx, func(ctx context.Context, l *link) (bool, error) {
		if tried {
			var now proto.TxnStatus
			err := l.ask(ctx, proto.MethodStatus, proto.TxnRequest{}, &now)
			if err != nil && proto.CodeOf(err) != proto.CodeNotFound {
				return false, err
			}
			if err == nil && now.Txn != before && isOurs(now, request) && !neverBegan(now) {
				result.Txn = now.Txn
				return true, nil
			}
		}
		tried = true
		return false, l.ask(ctx, proto.MethodBegin, request, &result)
	})
	if err != nil {
		return "", s.answer(proto.MethodBegin, err)
	}
	txn := cleanTxn(result.Txn)
	if txn == "" {
		return "", fmt.Errorf("activate on %q: the agent calls the transaction %q, which is no name of one", s.spec.Target.Host, oneLine(result.Txn))
	}
	return txn, nil
}

// neverBegan says whether a transaction ended before it had the host's lock: the agent aborts one whose name it could not
// tell because the connection broke.
func neverBegan(status proto.TxnStatus) bool {
	return status.State == proto.TxnFailed && status.Step == "lock" && status.Lock == nil
}

// newest returns the name of the host's newest transaction, empty where there is none.
func (s *Session) newest(ctx context.Context) (string, error) {
	status, err := s.Status(ctx, "")
	if answer, ok := errors.AsType[*AgentError](err); ok && answer.Code == proto.CodeNotFound {
		return "", nil
	}
	return status.Txn, err
}

// isOurs says whether a transaction is what the request asked for.
func isOurs(status proto.TxnStatus, request proto.BeginRequest) bool {
	return status.Action == request.Action && status.Toplevel == request.Toplevel &&
		status.Specialisation == request.Specialisation && status.Owner == request.Owner
}

// Attach follows a transaction to its end and returns how it ended, over as many connections as that takes; each, which may be
// nil, is called by one goroutine with every event once. The end of ctx, and a host that stays away, leave the transaction running:
// the error is then a [*DetachedError]. A transaction that did not get the host's lock is a [*LockedError], beside its status.
func (s *Session) Attach(ctx context.Context, txn string, each func(proto.TxnEvent)) (proto.TxnStatus, error) {
	return s.Watch(ctx, &Watch{Txn: txn, Each: each})
}

// Watch is what is known of a transaction that is followed, across connections and sessions. It is used by one goroutine at a time.
type Watch struct {
	Txn string
	// Each, which may be nil, is called with every event once.
	Each func(proto.TxnEvent)
	// Lost, which may be nil, is called when a connection broke, before another one is made.
	Lost func(error)

	offset uint64
	state  proto.TxnState
	status proto.TxnStatus
}

// Watch is [Session.Attach], which goes on where another call of Watch has ended.
func (s *Session) Watch(ctx context.Context, a *Watch) (proto.TxnStatus, error) {
	a.status = proto.TxnStatus{}
	err := s.resume(ctx, a.followOrBegin)
	answer, answered := errors.AsType[*proto.Error](err)
	if answered && answer.Code != proto.CodeCancelled {
		return a.status, s.answer(proto.MethodAttach, err)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case answered:
		err = cleanAnswer(answer)
	}
	if err != nil {
		return a.status, &DetachedError{Host: s.spec.Target.Host, Txn: a.Txn, Err: err}
	}
	if a.status.State == proto.TxnFailed && a.status.Lock != nil {
		return a.status, &LockedError{Host: s.spec.Target.Host, Holder: a.status.Lock}
	}
	return a.status, nil
}

// followOrBegin starts from the log's beginning where the host has a shorter log than we have read: it does not outlive a boot.
func (a *Watch) followOrBegin(ctx context.Context, l *link) (progress bool, err error) {
	progress, err = a.follow(ctx, l)
	if proto.CodeOf(err) == proto.CodeUsage && a.offset > 0 {
		a.offset = 0
		progress, err = a.follow(ctx, l)
	}
	if a.Lost != nil && err != nil && ctx.Err() == nil && isLost(err) {
		a.Lost(err)
	}
	return progress, err
}

func (a *Watch) follow(ctx context.Context, l *link) (progress bool, err error) {
	stream, err := l.control.Open(ctx, proto.MethodAttach, proto.AttachRequest{Txn: a.Txn, Offset: a.offset})
	if err != nil {
		return false, err
	}
	defer stream.Cancel()
	if err := stream.CloseWrite(); err != nil && !errors.Is(err, proto.ErrEnded) {
		return false, err
	}
	err = eachLine(stream, maxEvent, func(line []byte) error {
		var event proto.TxnEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return fmt.Errorf("read events of %q: %w", a.Txn, err)
		}
		if a.take(event) {
			progress = true
		}
		return nil
	})
	if err != nil {
		return progress, err
	}
	var status proto.TxnStatus
	if err := stream.Result(&status); err != nil {
		return progress, err
	}
	a.status = cleanStatus(status)
	return progress, nil
}

// take passes on what is new in an event, made harmless.
func (a *Watch) take(event proto.TxnEvent) bool {
	if event.Log != "" {
		if event.Offset <= a.offset {
			event.Log, event.Offset = "", 0
		} else {
			a.offset = event.Offset
			event.Log = run.StripEscapes(event.Log)
		}
	}
	event.State = proto.TxnState(oneLine(string(event.State)))
	if event.State == a.state {
		event.State = ""
	} else if event.State != "" {
		a.state = event.State
	}
	if event == (proto.TxnEvent{}) {
		return false
	}
	if a.Each != nil {
		a.Each(event)
	}
	return true
}

// Abort asks the host for the old system, as far as the transaction's state allows, and waits for that. The reason is one line for people.
func (s *Session) Abort(ctx context.Context, txn, reason string) (proto.TxnStatus, error) {
	return s.transaction(ctx, proto.MethodAbort, proto.TxnRequest{Txn: txn, Reason: reason})
}

// Status returns the state of a transaction, or of the newest where txn is empty.
func (s *Session) Status(ctx context.Context, txn string) (proto.TxnStatus, error) {
	return s.transaction(ctx, proto.MethodStatus, proto.TxnRequest{Txn: txn})
}

func (s *Session) transaction(ctx context.Context, method string, request proto.TxnRequest) (proto.TxnStatus, error) {
	var status proto.TxnStatus
	err := s.call(ctx, method, request, &status)
	return cleanStatus(status), err
}

// eachLine calls f with every line of r, each of at most limit bytes. A last line without its end counts too.
func eachLine(r io.Reader, limit int, f func(line []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), limit)
	for lines.Scan() {
		if err := f(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}
