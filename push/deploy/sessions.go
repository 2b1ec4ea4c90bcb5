package deploy

import (
	"context"
	"errors"
	"sync"
)

// sessions opens at most one session with each host, however many ask for it: a host may build for others while it is deployed itself.
type sessions struct {
	open func(ctx context.Context, host string) (Session, error)
	// dialing holds a token for each connection that is being made.
	dialing chan struct{}

	mu    sync.Mutex
	hosts map[string]*opening
}

// opening is a session that is, or was, being opened.
type opening struct {
	done    chan struct{}
	session Session
	err     error
}

func newSessions(open func(context.Context, string) (Session, error), limit int) *sessions {
	return &sessions{open: open, dialing: make(chan struct{}, limit), hosts: map[string]*opening{}}
}

// get returns the host's session, opened by the first who asks. begun is called when the connection is really being made or waited for.
func (s *sessions) get(ctx context.Context, host string) (Session, error) {
	s.mu.Lock()
	o, known := s.hosts[host]
	if !known {
		o = &opening{done: make(chan struct{})}
		s.hosts[host] = o
	}
	s.mu.Unlock()
	if known {
		select {
		case <-o.done:
			return o.session, o.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer close(o.done)
	select {
	case s.dialing <- struct{}{}:
		o.session, o.err = s.open(ctx, host)
		<-s.dialing
	case <-ctx.Done():
		o.err = context.Cause(ctx)
	}
	return o.session, o.err
}

// close ends the host's session, where there is one.
func (s *sessions) close(host string) {
	s.mu.Lock()
	o := s.hosts[host]
	s.mu.Unlock()
	if o == nil {
		return
	}
	<-o.done
	if o.session != nil {
		// The run's result is known by now; a connection that is not closed in order ends by itself.
		_ = o.session.Close()
	}
}

// closeAll ends all sessions that are left.
func (s *sessions) closeAll() {
	s.mu.Lock()
	var names []string
	for host := range s.hosts {
		names = append(names, host)
	}
	s.mu.Unlock()
	var closing sync.WaitGroup
	for _, host := range names {
		closing.Go(func() { s.close(host) })
	}
	closing.Wait()
}

// errNoConnector says that a run that needs hosts was given no way to reach them.
var errNoConnector = errors.New("no connector is configured")

// connect opens a host's session with the plan's and the request's settings.
func (r *deployment) connect(ctx context.Context, host string) (Session, error) {
	if r.Connector == nil {
		return nil, errNoConnector
	}
	spec, err := Spec(host, r.Plan.Hosts[host], r.request.Overrides)
	if err != nil {
		return nil, err
	}
	return r.Connector.Connect(ctx, spec)
}
