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
	// users are those who got it and did not give it back.
	users int
}

func newSessions(open func(context.Context, string) (Session, error), limit int) *sessions {
	return &sessions{open: open, dialing: make(chan struct{}, limit), hosts: map[string]*opening{}}
}

// get returns the host's session, opened by the first who asks. It stays open until all who got it have given it back, at the latest until
// closeAll. A host that could not be reached is not tried again before [sessions.forget].
func (s *sessions) get(ctx context.Context, host string) (Session, error) {
	s.mu.Lock()
	o, known := s.hosts[host]
	if !known {
		o = &opening{done: make(chan struct{})}
		s.hosts[host] = o
	}
	o.users++
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

// standing returns the host's session where it is open already, and else nil.
func (s *sessions) standing(host string) Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.hosts[host]
	if o == nil {
		return nil
	}
	select {
	case <-o.done:
		return o.session
	default:
		return nil
	}
}

// giveBack ends the host's session, where nobody else has it. A later get opens another one.
func (s *sessions) giveBack(host string) {
	s.mu.Lock()
	o := s.hosts[host]
	if o == nil {
		s.mu.Unlock()
		return
	}
	o.users--
	if o.users > 0 || o.session == nil {
		s.mu.Unlock()
		return
	}
	delete(s.hosts, host)
	s.mu.Unlock()
	o.close()
}

// forget lets a later get try a host again that could not be reached, where nobody else waits for it.
func (s *sessions) forget(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.hosts[host]; o != nil && o.users == 0 && o.session == nil {
		delete(s.hosts, host)
	}
}

// closeAll ends all sessions, whoever has them.
func (s *sessions) closeAll() {
	s.mu.Lock()
	all := s.hosts
	s.hosts = map[string]*opening{}
	s.mu.Unlock()
	var closing sync.WaitGroup
	for _, o := range all {
		closing.Go(o.close)
	}
	closing.Wait()
}

func (o *opening) close() {
	<-o.done
	if o.session != nil {
		// The result is known by now; a connection that is not closed in order ends by itself.
		_ = o.session.Close()
	}
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
