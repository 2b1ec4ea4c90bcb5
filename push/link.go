package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"fleet/push/proto"
	"fleet/push/transport"
)

// link is one SSH connection with the agent attached to it.
type link struct {
	s     *Session
	conn  transport.Conn
	agent agentRef
	// upload keeps the folder that the helper runs from, nil where that is the store.
	upload *upload
	// door is the way to the agent that was made while it started, nil where there is none or it was taken.
	door *door
	// control carries calls and events; bulk data has a channel of its own, so that neither waits for the other.
	control *proto.Client

	mu   sync.Mutex
	bulk *proto.Client
	// trip is the shortest time that an answer took, in nanoseconds; 0 where there was none.
	trip atomic.Int64

	// asked is the answer to what was asked together with the first hello; nil where nothing was.
	asked chan hostAnswer
}

// hostAnswer is what an agent answers to [proto.MethodInfo].
type hostAnswer struct {
	info proto.HostInfo
	err  error
}

// rtt is the link's round trip, as far as is known.
func (l *link) rtt() time.Duration { return time.Duration(l.trip.Load()) }

// roundTrip takes the time of one answer.
func (l *link) roundTrip(took time.Duration) {
	for known := l.trip.Load(); known == 0 || int64(took) < known; known = l.trip.Load() {
		if l.trip.CompareAndSwap(known, int64(took)) {
			return
		}
	}
}

// agentGoneError says that the connection is fine but the agent is not there any more.
type agentGoneError struct {
	host string
	// output is what the attach command printed.
	output string
}

func (e *agentGoneError) Error() string {
	msg := fmt.Sprintf("attach to the agent on %q: it has ended", e.host)
	if e.output != "" {
		msg += ": " + e.output
	}
	return msg
}

// attach opens a channel to the agent.
func (l *link) attach(ctx context.Context) (*proto.Client, error) {
	return l.attachWith(ctx, func(*proto.Client) {})
}

// attachAsking is attach, and asks what the agent sees of its host: the answer takes no round trip of its own.
func (l *link) attachAsking(ctx context.Context) (*proto.Client, error) {
	l.asked = make(chan hostAnswer, 1)
	return l.attachWith(ctx, func(client *proto.Client) {
		go func() {
			var a hostAnswer
			a.err = l.askOver(ctx, client, proto.MethodInfo, nil, &a.info)
			l.asked <- a
		}()
	})
}

// attachWith is attach, and has early ask over the channel before the agent has answered our hello.
func (l *link) attachWith(ctx context.Context, early func(*proto.Client)) (*proto.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.s.c.Timeouts.withDefaults().Attach, errTimeout)
	defer cancel()
	ch, err := l.reach(ctx)
	if err != nil {
		return nil, err
	}
	errs := drain(ch.Stderr())
	counted := &agentChannel{Channel: ch, wire: &l.s.wire}
	counted.patient.Store(true)
	client := proto.Begin(counted, proto.Hello{Token: l.agent.token, Software: l.s.c.Software})
	early(client)
	err = client.Greeted(ctx)
	counted.patient.Store(false)
	if err == nil {
		return client, nil
	}
	return nil, l.attachError(ctx, counted.ending(), err, errs)
}

// reach starts the command that attaches.
func (l *link) reach(ctx context.Context) (transport.Channel, error) {
	if d := l.door; d != nil {
		l.door = nil
		if ch, err := d.enter(ctx, l.agent); err == nil {
			return ch, nil
		}
	}
	return l.conn.Start(ctx, transport.Quote(l.agent.exe, "attach", "--socket", l.agent.socket), transport.ChannelOptions{})
}

// attachError tells an agent that is gone from a connection that is. The attach command ended with end.
func (l *link) attachError(ctx context.Context, end, err error, errs func() string) error {
	host := l.s.spec.Target.Host
	if answer, ok := errors.AsType[*proto.Error](err); ok {
		if answer.Code == proto.CodeVersion {
			return versionError(host, answer)
		}
		return fmt.Errorf("attach to the agent on %q: %w", host, cleanAnswer(answer))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, ok := errors.AsType[*transport.ExitError](end); ok {
		return &agentGoneError{host: host, output: errs()}
	}
	if end != nil {
		return end
	}
	return err
}

// data returns the channel for bulk data, opened by the first who asks.
func (l *link) data(ctx context.Context) (*proto.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bulk != nil && l.bulk.Err() == nil {
		return l.bulk, nil
	}
	client, err := l.attach(ctx)
	if err != nil {
		return nil, err
	}
	l.bulk = client
	return client, nil
}

// openData begins to open the channel for bulk data, if it will be needed, so that it is there by then. What it returns ends that, and waits for it; where it was
// not opened, it is tried again by who needs it.
func (l *link) openData(ctx context.Context, needed bool) (end func()) {
	if !needed {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = l.data(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// ask makes one request over the control channel. An agent that keeps its connection alive but does not answer, as where the
// host's Nix hangs, ends it; not where the host may work or wait for long.
func (l *link) ask(ctx context.Context, method string, params, result any) error {
	return l.askOver(ctx, l.control, method, params, result)
}

func (l *link) askOver(ctx context.Context, client *proto.Client, method string, params, result any) error {
	if !takesLong(method) {
		silent := fmt.Errorf("ask the agent on %q for %s: %w", l.s.spec.Target.Host, method, errTimeout)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.s.c.Timeouts.withDefaults().Answer, silent)
		defer cancel()
	}
	began := time.Now()
	err := client.Call(ctx, method, params, result)
	if err == nil {
		l.roundTrip(time.Since(began))
	}
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		// The error quotes what the host has said.
		return fmt.Errorf("ask the agent on %q for %s: %s", l.s.spec.Target.Host, method, oneLine(err.Error()))
	}
	return err
}

// takesLong says that the host may work or wait for long before it answers.
func takesLong(method string) bool {
	switch method {
	case proto.MethodSubstitute, proto.MethodSubstituted, proto.MethodConfirm, proto.MethodAbort:
		return true
	}
	return false
}

// alive says whether the connection still stands, as far as is known.
func (l *link) alive() bool { return l != nil && l.control.Err() == nil }

// close ends the connection; the agent lives on for its grace time.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// What cannot be closed in order is closed with the connection.
	if l.bulk != nil {
		_ = l.bulk.Close()
	}
	if l.control != nil {
		_ = l.control.Close()
	}
	l.upload.close()
	_ = l.conn.Close()
}

// agentChannel counts what goes through a channel, and learns how its command ended where that is in place of an answer, such as a greeting.
type agentChannel struct {
	transport.Channel
	wire *atomic.Uint64
	// patient says that Close waits for the exit status of a command that has ended, as before the hellos were exchanged; ended that the command takes or gives nothing any more.
	patient, ended atomic.Bool

	mu sync.Mutex
	// end is how the command ended, set by a patient Close.
	end error
}

// ending is how the command ended, nil where that is not known.
func (c *agentChannel) ending() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end
}

func (c *agentChannel) Read(p []byte) (int, error) {
	n, err := c.Channel.Read(p)
	c.wire.Add(uint64(n))
	if err != nil {
		c.ended.Store(true)
	}
	return n, err
}

func (c *agentChannel) Write(p []byte) (int, error) {
	n, err := c.Channel.Write(p)
	c.wire.Add(uint64(n))
	if err != nil {
		c.ended.Store(true)
	}
	return n, err
}

// Close closes the channel. Where it is patient, and the command has ended, it waits for the exit status, which comes
// right after that and would be lost otherwise.
func (c *agentChannel) Close() error {
	if c.patient.Load() && c.ended.Load() {
		const patience = 2 * time.Second
		end := make(chan error, 1)
		go func() { end <- c.Channel.Wait() }()
		select {
		case err := <-end:
			c.mu.Lock()
			c.end = err
			c.mu.Unlock()
		case <-time.After(patience):
		}
	}
	return c.Channel.Close()
}

var _ io.ReadWriteCloser = (*agentChannel)(nil)
