package direct

import (
	"context"
	"fmt"
	"sync"
	"time"

	"fleet/closure"
	"fleet/closure/storepath"
)

// task is one path of an import.
type task struct {
	info closure.PathInfo
	// base is a path that has much in common with it, or the zero Path.
	base storepath.Path
	// refs are the other paths of this import that it refers to.
	refs  []*task
	state taskState
	// lock is held from before the path is extracted until it is registered, by who works on the task.
	lock *pathLock
	// over is closed when the state is final.
	over chan struct{}
}

type taskState int

const (
	// active: the path is being added.
	active taskState = iota
	// extracted: it is in its place, locked, and not registered.
	extracted
	// valid: it needs no registration by us.
	valid
	// registered and failed are final.
	registered
	failed
)

// tasks are the paths of an import, and decide what is registered when. The methods are safe for concurrent use.
type tasks struct {
	ctx context.Context

	mu      sync.Mutex
	changed *sync.Cond
	byPath  map[storepath.Path]*task
	// pending are the tasks that are not over, in the order of the import.
	pending []*task
	// adding and added are how many of the pending ones are being added, and are complete and may be registered as soon as what they refer to is.
	adding, added int
	// since is when the first of those became complete.
	since time.Time
	// urgent is how many wait for a registration, waiting how many for the end of all tasks.
	urgent, waiting int
	closing         bool
}

func newTasks(ctx context.Context) *tasks {
	s := &tasks{ctx: ctx, byPath: make(map[storepath.Path]*task)}
	s.changed = sync.NewCond(&s.mu)
	// Whoever waits on changed hears of the end of the context too.
	context.AfterFunc(ctx, s.wake)
	return s
}

func (s *tasks) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// begin makes a path one of the import.
func (s *tasks) begin(info closure.PathInfo, base storepath.Path) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.byPath[info.Path]; twice {
		return nil, fmt.Errorf("import %q: the path came before", info.Path)
	}
	t := &task{info: info, base: base, state: active, over: make(chan struct{})}
	for _, ref := range info.References {
		if before := s.byPath[ref]; before != nil {
			t.refs = append(t.refs, before)
		}
	}
	s.byPath[info.Path] = t
	s.pending = append(s.pending, t)
	s.adding++
	return t, nil
}

// complete says how adding a path has ended.
func (s *tasks) complete(t *task, state taskState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.state = state
	s.adding--
	if state != failed {
		if s.added == 0 {
			s.since = time.Now()
		}
		s.added++
	}
	s.changed.Broadcast()
}

// hurry makes registrations begin at once, until the result is called.
func (s *tasks) hurry() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.urgent++
	s.changed.Broadcast()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.urgent--
	}
}

// wait returns when no task is pending.
func (s *tasks) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	s.changed.Broadcast()
	for len(s.pending) > 0 {
		s.changed.Wait()
	}
	s.waiting--
}

// close says that no task will begin any more.
func (s *tasks) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.changed.Broadcast()
}

// next waits until it is time to register tasks, and returns those that can be, in order. Those that never can, since something has failed, are to be
// dropped. more is false when the end has come.
func (s *tasks) next() (batch, dropped []*task, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		ending := s.adding == 0 && s.ctx.Err() != nil
		switch {
		case ending && len(s.pending) > 0:
			batch, dropped = s.ready()
			return batch, dropped, true
		case ending && s.closing:
			return nil, nil, false
		case s.due():
			if batch, _ := s.ready(); len(batch) > 0 {
				return batch, nil, true
			}
		}
		s.sleep()
	}
}

// due says whether it is time for a registration.
func (s *tasks) due() bool {
	if s.added == 0 {
		return false
	}
	return s.urgent > 0 || s.waiting > 0 && s.adding == 0 || s.added >= batchPaths || time.Since(s.since) >= batchAge
}

// sleep waits for a change, or for the time of a registration.
func (s *tasks) sleep() {
	if left := batchAge - time.Since(s.since); s.added > 0 && left > 0 {
		timer := time.AfterFunc(left, s.wake)
		defer timer.Stop()
	}
	s.changed.Wait()
}

// ready splits the pending tasks into those that are complete and refer only to what is registered, or to one another, and the rest.
func (s *tasks) ready() (ready, rest []*task) {
	chosen := make(map[*task]bool)
	for _, t := range s.pending {
		ok := t.state == extracted || t.state == valid
		for _, ref := range t.refs {
			ok = ok && (ref.state == registered || chosen[ref])
		}
		if ok {
			chosen[t] = true
			ready = append(ready, t)
		} else {
			rest = append(rest, t)
		}
	}
	return ready, rest
}

// end makes a state final.
func (s *tasks) end(t *task, state taskState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.state = state
	close(t.over)
}

// forget takes the tasks that are over from the pending ones.
func (s *tasks) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added = 0
	pending := make([]*task, 0, len(s.pending))
	for _, t := range s.pending {
		select {
		case <-t.over:
			continue
		default:
		}
		pending = append(pending, t)
		if t.state == extracted || t.state == valid {
			s.added++
		}
	}
	s.pending, s.since = pending, time.Now()
	s.changed.Broadcast()
}
