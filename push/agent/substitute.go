package agent

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"fleet/closure/daemon"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// substituters is how many paths are substituted at once, each over a connection of its own.
const substituters = 4

// substitution is what the host's own substituters are serving, while the operator sends the rest. It lives in the session, whatever becomes of the connections.
type substitution struct {
	cancel context.CancelFunc
	// paths are in the order in which they are asked for, references first.
	paths []storepath.Path
	// over has a channel for each of paths, closed when nothing more is done for it.
	over map[storepath.Path]chan struct{}
	// done is closed at the end of all.
	done chan struct{}
}

// substitute begins to substitute those of the paths that a substituter says it has, and names their places.
func (s *session) substitute(ctx context.Context, req proto.SubstituteRequest) (proto.SubstituteResult, error) {
	paths, err := parseBases(req.Paths)
	if err != nil {
		return proto.SubstituteResult{}, err
	}
	conn, err := s.borrow(ctx)
	if err != nil {
		return proto.SubstituteResult{}, err
	}
	served, err := conn.QuerySubstitutable(ctx, paths)
	s.giveBack(conn)
	if ctx.Err() != nil {
		return proto.SubstituteResult{}, context.Cause(ctx)
	}
	// Substituters that cannot be asked have nothing: what they would have served is sent.
	if err != nil {
		served = nil
	}
	has := make(map[storepath.Path]bool, len(served))
	for _, path := range served {
		has[path] = true
	}
	result := proto.SubstituteResult{Served: []int{}}
	var wanted []storepath.Path
	for i, path := range paths {
		if has[path] {
			result.Served = append(result.Served, i)
			wanted = append(wanted, path)
		}
	}
	return result, s.beginSubstitution(wanted)
}

// beginSubstitution replaces what an earlier push has begun.
func (s *session) beginSubstitution(paths []storepath.Path) error {
	ctx, cancel := context.WithCancel(s.ctx)
	sub := &substitution{cancel: cancel, paths: paths, over: make(map[storepath.Path]chan struct{}, len(paths)), done: make(chan struct{})}
	for _, path := range paths {
		sub.over[path] = make(chan struct{})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		cancel()
		return context.Cause(s.ctx)
	}
	if s.substitution != nil {
		s.substitution.cancel()
	}
	s.substitution = sub
	s.work.Go(func() {
		defer cancel()
		sub.run(ctx, s)
		close(sub.done)
	})
	return nil
}

// run asks for all paths. What does not come, because a substituter does not give it after all or a daemon dies, is no error: whoever waits for it sees that it is not
// there, and it is sent.
func (sub *substitution) run(ctx context.Context, s *session) {
	next := make(chan storepath.Path)
	group, groupCtx := errgroup.WithContext(ctx)
	for range min(substituters, len(sub.paths)) {
		group.Go(func() error { return sub.ensure(groupCtx, s, next) })
	}
	group.Go(func() error {
		defer close(next)
		for _, path := range sub.paths {
			select {
			case next <- path:
			case <-groupCtx.Done():
				return nil
			}
		}
		return nil
	})
	_ = group.Wait()
	for _, over := range sub.over {
		select {
		case <-over:
		default:
			close(over)
		}
	}
}

// ensure takes paths until none is left.
func (sub *substitution) ensure(ctx context.Context, s *session, next <-chan storepath.Path) error {
	conn, err := s.borrow(ctx)
	if err != nil {
		return err
	}
	defer s.giveBack(conn)
	for path := range next {
		err := conn.EnsurePath(ctx, path)
		if _, refused := errors.AsType[*daemon.Error](err); err != nil && !refused {
			return fmt.Errorf("substitute %s: %w", path, err)
		}
		close(sub.over[path])
	}
	return nil
}

// substituted waits for the substitution that was begun last, and names the paths that nobody had.
func (s *session) substituted(ctx context.Context, _ struct{}) (proto.SubstitutedResult, error) {
	sub := s.currentSubstitution()
	if sub == nil {
		return proto.SubstitutedResult{}, proto.Errorf(proto.CodeNotFound, "the agent does not know of a substitution: it is another one than before")
	}
	if err := wait(ctx, sub.done); err != nil {
		return proto.SubstitutedResult{}, err
	}
	conn, err := s.protect(ctx, sub.paths)
	if err != nil {
		return proto.SubstitutedResult{}, err
	}
	absent, err := invalid(ctx, conn, sub.paths)
	return proto.SubstitutedResult{Missing: len(absent)}, err
}

func (s *session) currentSubstitution() *substitution {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.substitution
}

// awaitSubstituted waits until nothing is being substituted of what a path refers to, so that it can be registered.
func (s *session) awaitSubstituted(ctx context.Context, references []storepath.Path) error {
	sub := s.currentSubstitution()
	if sub == nil {
		return nil
	}
	for _, reference := range references {
		if over, ok := sub.over[reference]; ok {
			if err := wait(ctx, over); err != nil {
				return err
			}
		}
	}
	return nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
