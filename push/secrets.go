package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"fleet/closure/run"
	"fleet/push/proto"
)

// SecretsRequest is one request about secrets.
type SecretsRequest struct {
	// Method is one of the proto.MethodSecrets…; what Params and Result have to be stands there.
	Method string
	Params any
	// Result is a pointer that the answer is decoded into. What is text in it is the host's and may be anything: see [CleanText].
	Result any
	// Timeout bounds the agent's answer, connecting excepted; zero means the connector's Timeouts.Answer.
	Timeout time.Duration
	// Log is called with every line that the agent sends meanwhile, free of escape codes, by one goroutine; nil drops them.
	Log func(line string)
}

// Secrets makes one request about secrets. Where the connection breaks it is made again over a new one, except for
// [proto.MethodSecretsRun]: a generator that ran once may have changed something outside, so that is a [*BrokenRunError]. An
// answer that is an error is an [*AgentError].
func (s *Session) Secrets(ctx context.Context, request SecretsRequest) error {
	if !strings.HasPrefix(request.Method, "secrets.") {
		return fmt.Errorf("ask the agent on %q: %q is no method about secrets", s.spec.Target.Host, request.Method)
	}
	err := s.resume(ctx, func(ctx context.Context, l *link) (bool, error) {
		if request.Method != proto.MethodSecretsRun {
			return false, request.ask(ctx, l)
		}
		err := request.ask(ctx, l)
		if err != nil && ctx.Err() == nil && isLost(err) {
			l.close() // a half-open connection would not be noticed again
			return false, &BrokenRunError{Host: s.spec.Target.Host, Reason: oneLine(err.Error())}
		}
		return false, err
	})
	return s.answer(request.Method, err)
}

// ask makes the request over one connection.
func (r SecretsRequest) ask(ctx context.Context, l *link) error {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = l.s.c.Timeouts.withDefaults().Answer
	}
	silent := fmt.Errorf("ask the agent on %q for %s: %w", l.s.spec.Target.Host, r.Method, errTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, silent)
	defer cancel()
	stream, err := l.control.Open(ctx, r.Method, r.Params)
	if err != nil {
		return err
	}
	defer stream.Cancel()
	if err := stream.CloseWrite(); err != nil && !errors.Is(err, proto.ErrEnded) {
		return err
	}
	lines := run.NewLineWriter(func(line string) {
		if r.Log != nil {
			r.Log(line)
		}
	})
	if _, err := io.Copy(lines, stream); err != nil {
		return err
	}
	lines.Flush()
	return stream.Result(r.Result)
}

// BrokenRunError says that the connection broke while a generator of a secret ran on a host. The agent ends the generator as soon as it
// notices; nothing of what it made is kept, and it was not run again.
type BrokenRunError struct {
	Host, Reason string
}

func (e *BrokenRunError) Error() string {
	return fmt.Sprintf("run a generator on %q: the connection broke meanwhile: %s", e.Host, e.Reason)
}

// Hint says that it can be repeated, by a person.
func (e *BrokenRunError) Hint() string {
	return "its value is dropped; where running it twice does no harm: fleet secrets sync"
}

// CleanText makes a text of a host fit to be shown: one line, bounded, free of escape codes.
func CleanText(text string) string { return oneLine(text) }
