package push

import (
	"context"
	"errors"
	"fmt"

	"fleet/evaluator/plan"
	"fleet/push/proto"
	"fleet/push/transport"
)

// maxFruitless is how many connections in a row may break during a piece of work before it has made any progress.
const maxFruitless = 4

// resume does work over the session's connection and, where that breaks, again over a new one. The work says whether it made
// progress, must be repeatable, and returns errors that say whether the connection was lost.
func (s *Session) resume(ctx context.Context, work func(ctx context.Context, l *link) (progress bool, err error)) error {
	fruitless := 0
	for {
		l, err := s.connected(ctx)
		if err != nil {
			return err
		}
		progress, err := work(ctx, l)
		if err == nil || ctx.Err() != nil || !isLost(err) {
			return err
		}
		l.close() // a half-open connection would not be noticed again
		if fruitless++; progress {
			fruitless = 1
		}
		if fruitless >= maxFruitless {
			return &LostError{Host: s.spec.Target.Host, Tries: fruitless, Err: err}
		}
		s.report(plan.EventWarning, fmt.Sprintf("connection lost, connecting again: %s", oneLine(err.Error())))
	}
}

// connected returns a connection that stands as far as is known, and makes one where there is none.
func (s *Session) connected(ctx context.Context) (*link, error) {
	if l, err := s.standing(); l != nil || err != nil {
		return l, err
	}
	select {
	case s.making <- struct{}{}:
		defer func() { <-s.making }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if l, err := s.standing(); l != nil || err != nil {
		return l, err
	}
	return s.revive(ctx)
}

// standing returns the current connection unless it is broken.
func (s *Session) standing() (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if s.current.alive() {
		return s.current, nil
	}
	return nil, nil
}

// revive replaces the broken connection. The caller holds the token.
func (s *Session) revive(ctx context.Context) (*link, error) {
	s.mu.Lock()
	ref, old := s.current.agent, s.current
	s.mu.Unlock()
	old.close()
	var l *link
	tries, err := s.c.Retry.do(ctx, func(ctx context.Context) (err error) {
		l, err = s.open(ctx, &ref)
		return err
	}, func(err error) bool { return ctx.Err() == nil && isTransient(err) })
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, context.Cause(ctx)
	case err != nil && isTransient(err):
		return nil, &LostError{Host: s.spec.Target.Host, Tries: tries, Err: err}
	case err != nil:
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		l.close()
		return nil, ErrClosed
	}
	s.current = l
	return l, nil
}

// isLost says whether err comes from a connection that broke, so that the same may work over another one.
func isLost(err error) bool {
	if errors.Is(err, proto.ErrLost) || errors.Is(err, proto.ErrClosed) {
		return true
	}
	if _, ok := errors.AsType[*transport.LostError](err); ok {
		return true
	}
	_, gone := errors.AsType[*agentGoneError](err)
	return gone
}

// isTransient says whether making a connection may work a moment later: hosts reboot, networks come back. A wrong key
// or a refused login do not mend themselves.
func isTransient(err error) bool {
	if _, ok := errors.AsType[*transport.UnreachableError](err); ok {
		return true
	}
	return isLost(err) || errors.Is(err, errTimeout) || errors.Is(err, context.DeadlineExceeded)
}
