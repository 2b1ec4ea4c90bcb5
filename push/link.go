package push

import (
	"context"
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
	// control carries calls and events; bulk data has a channel of its own, so that neither waits for the other.
	control *proto.Client

	mu   sync.Mutex
	bulk *proto.Client
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
	ctx, cancel := context.WithTimeoutCause(ctx, l.s.c.Timeouts.withDefaults().Attach, errTimeout)
	defer cancel()
	ch, err := l.conn.Start(ctx, transport.Quote(l.agent.exe, "attach", "--socket", l.agent.socket), transport.ChannelOptions{})
	if err != nil {
		return nil, err
	}
	errs := drain(ch.Stderr())
	client, err := proto.NewClient(ctx, &countedChannel{Channel: ch, wire: &l.s.wire}, proto.Hello{Token: l.agent.token, Software: l.s.c.Software})
	if err == nil {
		return client, nil
	}
	return nil, l.attachError(ctx, ch, err, errs)
}

// attachError tells an agent that is gone from a connection that is.
func (l *link) attachError(ctx context.Context, ch transport.Channel, err error, errs func() string) error {
	host := l.s.spec.Target.Host
	if answer, ok := errors.AsType[*proto.Error](err); ok {
		if answer.Code == proto.CodeVersion {
			return versionError(host, answer)
		}
		return fmt.Errorf("attach to the agent on %q: %w", host, answer)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ended := make(chan error, 1)
	go func() { ended <- ch.Wait() }()
	select {
	case end := <-ended:
		var exit *transport.ExitError
		if end == nil || errors.As(end, &exit) {
			return &agentGoneError{host: host, output: errs()}
		}
		return end
	case <-time.After(2 * time.Second):
		return err
	}
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

// countedChannel counts what goes through a channel.
type countedChannel struct {
	transport.Channel
	wire *atomic.Uint64
}

func (c *countedChannel) Read(p []byte) (int, error) {
	n, err := c.Channel.Read(p)
	c.wire.Add(uint64(n))
	return n, err
}

func (c *countedChannel) Write(p []byte) (int, error) {
	n, err := c.Channel.Write(p)
	c.wire.Add(uint64(n))
	return n, err
}

var _ io.ReadWriteCloser = (*countedChannel)(nil)
