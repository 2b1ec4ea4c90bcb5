package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/proto"
	"fleet/push/transport"
)

// Session is an agent on a host and the connection to it. It is safe for concurrent use. Close it, also after errors:
// otherwise the agent stays on the host for its grace time.
type Session struct {
	c      *Connector
	spec   HostSpec
	helper storepath.Path
	// wire counts the bytes that went through channels of agents, both ways, over all connections.
	wire atomic.Uint64

	// making holds one token: who has it makes, replaces or closes the connection, and owns keys.
	making chan struct{}
	keys   keyring

	mu sync.Mutex
	// current is the newest connection, perhaps broken; nil only before the first one.
	current *link
	info    proto.HostInfo
	closed  bool
}

// ErrClosed is returned by a session's methods after [Session.Close].
var ErrClosed = errors.New("session is closed")

// Connect reaches the host, makes the helper run there as an agent, and attaches to it. What it returns beside
// transport's error types: [*NoStoreError], [*WrongSystemError] and [*ProbeError], before anything was changed on the host;
// [*NoElevationError], [*PasswordError], [*BootstrapError] and [*VersionError]. On an error nothing of ours is left running there.
func (c *Connector) Connect(ctx context.Context, spec HostSpec) (*Session, error) {
	helper, err := c.Helper(ctx, spec.System)
	if err != nil {
		return nil, err
	}
	return (&Session{c: c, spec: spec, helper: helper, making: make(chan struct{}, 1)}).begin(ctx)
}

// Again opens another session with the same host, over a connection of its own and with an agent of its own: it proves that the host can be
// reached and deployed to. spec is that of this session, or another way to the same host. A password that was taken is not asked for again.
func (s *Session) Again(ctx context.Context, spec HostSpec) (*Session, error) {
	other := &Session{c: s.c, spec: spec, helper: s.helper, making: make(chan struct{}, 1)}
	if password := s.keys.remembered(); password != nil {
		other.keys.remember(password)
		clear(password)
	}
	return other.begin(ctx)
}

// begin makes the first connection.
func (s *Session) begin(ctx context.Context) (*Session, error) {
	l, err := s.open(ctx, nil)
	if err != nil {
		s.keys.forget()
		return nil, err
	}
	s.current = l
	first := <-l.asked
	switch {
	case first.err == nil:
		s.learn(first.info)
	case isLost(first.err):
		_, err = s.Refresh(ctx)
	default:
		err = s.answer(proto.MethodInfo, first.err)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// HostKey learns the key that a host proves to have, as "type base64", and what vouches for it: it connects, which includes the login, and
// hangs up. Both are empty for this machine. The errors are those of transports.
func (c *Connector) HostKey(ctx context.Context, spec HostSpec) (string, transport.Provenance, error) {
	conn, err := (&Session{c: c, spec: spec}).dial(ctx)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	key, provenance := conn.HostKey()
	return key, provenance, nil
}

// open dials and attaches: to the agent that ref names where it still lives, else to a new one.
func (s *Session) open(ctx context.Context, ref *agentRef) (*link, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{s: s, conn: conn}
	if err := s.join(ctx, l, ref); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (s *Session) dial(ctx context.Context) (transport.Conn, error) {
	dialer, err := s.c.dialer(s.spec)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.c.Timeouts.withDefaults().Dial, errTimeout)
	defer cancel()
	return dialer.Dial(ctx, s.spec.Target)
}

// join attaches l to an agent, and asks a session's first one for its host.
func (s *Session) join(ctx context.Context, l *link, ref *agentRef) (err error) {
	if ref != nil {
		l.agent = *ref
		client, err := l.attach(ctx)
		if err == nil {
			l.control = client
			return nil
		}
		_, gone := errors.AsType[*agentGoneError](err)
		if !gone && proto.CodeOf(err) != proto.CodeToken {
			return err
		}
		s.report(plan.EventWarning, "the agent on the host has ended, starting another one")
	}
	b := &bootstrap{c: s.c, spec: s.spec, conn: l.conn, helper: s.helper, keys: &s.keys}
	if l.agent, err = b.run(ctx); err != nil {
		return err
	}
	l.upload, l.door = b.upload, b.door
	if ref == nil {
		l.control, err = l.attachAsking(ctx)
	} else {
		l.control, err = l.attach(ctx)
	}
	if err != nil {
		s.abandon(ctx, l)
	}
	return err
}

// abandon ends an agent that was started a moment ago and that we could not attach to, or no longer want.
func (s *Session) abandon(ctx context.Context, l *link) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.c.Timeouts.withDefaults().Close)
	defer cancel()
	if client, err := l.attach(ctx); err == nil {
		_ = client.Call(ctx, proto.MethodEnd, nil, nil) // without it the agent ends after its grace time
		_ = client.Close()
	}
}

func (s *Session) report(kind plan.EventKind, message string) {
	s.c.emit(plan.Event{Host: s.spec.Target.Host, Step: plan.StepConnect, Kind: kind, Message: message})
}

// Info is what the agent said of its host when it was asked last.
func (s *Session) Info() proto.HostInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// Moved is how many bytes have gone through the session's channels so far, in both directions, with what keeps them open.
func (s *Session) Moved() uint64 { return s.wire.Load() }

// Refresh asks the agent again.
func (s *Session) Refresh(ctx context.Context) (proto.HostInfo, error) {
	var info proto.HostInfo
	if err := s.call(ctx, proto.MethodInfo, nil, &info); err != nil {
		return proto.HostInfo{}, err
	}
	return s.learn(info), nil
}

func (s *Session) learn(info proto.HostInfo) proto.HostInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.info = cleanInfo(info)
	return s.info
}

// HostKey is the host's key on the current connection, and what vouched for it.
func (s *Session) HostKey() (string, transport.Provenance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.conn.HostKey()
}

// call makes one request that may be made twice.
func (s *Session) call(ctx context.Context, method string, params, result any) error {
	err := s.resume(ctx, func(ctx context.Context, l *link) (bool, error) {
		return false, l.ask(ctx, method, params, result)
	})
	return s.answer(method, err)
}

// answer makes an agent's error into one that names the host.
func (s *Session) answer(method string, err error) error {
	answer, ok := errors.AsType[*proto.Error](err)
	if !ok {
		return err
	}
	host := s.spec.Target.Host
	switch answer.Code {
	case proto.CodeLocked:
		e := &LockedError{Host: host}
		var holder proto.LockHolder
		if json.Unmarshal(answer.Data, &holder) == nil && holder != (proto.LockHolder{}) {
			e.Holder = cleanHolder(&holder)
		}
		return e
	case proto.CodeVersion:
		return versionError(host, answer)
	}
	if answer.Code == proto.CodePreflight {
		return refusedError(host, answer)
	}
	clean := cleanAnswer(answer)
	return &AgentError{Host: host, Method: method, Code: clean.Code, Message: clean.Message, Remedy: clean.Remedy}
}

func versionError(host string, answer *proto.Error) error {
	var data proto.VersionData
	// Without data the versions stay 0, and the error still says what is wrong.
	_ = json.Unmarshal(answer.Data, &data)
	return &VersionError{Host: host, Ours: proto.Version, Theirs: data.Agent}
}

// Close ends the agent and the connection. An activation that is under way goes on without them. It may be called more than once.
func (s *Session) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.c.Timeouts.withDefaults().Close)
	defer cancel()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	// Whoever is making a connection sees closed at its end, or closes what it made.
	select {
	case s.making <- struct{}{}:
		defer func() { <-s.making }()
	case <-ctx.Done():
		return fmt.Errorf("close session with %q: a connection is still being made", s.spec.Target.Host)
	}
	s.keys.forget()
	s.mu.Lock()
	l := s.current
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	if l.alive() {
		// Where the agent does not take it, it ends after its grace time.
		_ = l.control.Call(ctx, proto.MethodEnd, nil, nil)
	}
	l.close()
	return nil
}

func (s *Session) warn(step plan.Step, message string) {
	s.c.emit(plan.Event{Host: s.spec.Target.Host, Step: step, Kind: plan.EventWarning, Message: message})
}

// user is the login user of the current connection.
func (s *Session) user() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.conn.User()
}
