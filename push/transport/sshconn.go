package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// activeConn notes when something is received, and how the stream ends.
type activeConn struct {
	net.Conn
	received atomic.Int64 // reads that brought something
	failed   atomic.Bool
	closed   atomic.Bool
	dropped  atomic.Bool
}

func (c *activeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.received.Add(1)
	}
	c.note(err)
	return n, err
}

func (c *activeConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.note(err)
	return n, err
}

func (c *activeConn) note(err error) {
	if err != nil {
		c.failed.Store(true)
		if !c.closed.Load() {
			c.dropped.Store(true)
		}
	}
}

func (c *activeConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// broken says that the stream works no more.
func (c *activeConn) broken() bool { return c.failed.Load() }

// cut says that it was not we who ended the stream.
func (c *activeConn) cut() bool { return c.dropped.Load() }

// sshConn is an authenticated connection, our own or through the master of the system's ssh.
type sshConn struct {
	host, address, user string
	hostKey             string
	provenance          Provenance
	timeouts            Timeouts
	link                *activeConn
	client              *ssh.Client

	silent atomic.Bool
	// used says that a channel was opened: the server has set up its session.
	used    atomic.Bool
	closing atomic.Bool
	gone    chan struct{}

	mu sync.Mutex
	// explain, where set, finds a better reason for the end than the stream's.
	explain func(err error) error
	closers []func()
	reason  error
	dead    bool
	// spares are the channels that Prepare has opened and Start has not used.
	spares []*opening
}

var _ Conn = (*sshConn)(nil)

func newSSHConn(host, address string, timeouts Timeouts, link *activeConn, client *ssh.Client) *sshConn {
	c := &sshConn{host: host, address: address, timeouts: timeouts, link: link, client: client, gone: make(chan struct{})}
	go c.watch()
	return c
}

// onClose has f called once the connection is gone.
func (c *sshConn) onClose(f func()) {
	c.mu.Lock()
	dead := c.dead
	if !dead {
		c.closers = append(c.closers, f)
	}
	c.mu.Unlock()
	if dead {
		f()
	}
}

func (c *sshConn) setExplain(explain func(error) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.explain = explain
}

// watch owns the end of the connection.
func (c *sshConn) watch() {
	err := c.client.Wait()
	_ = c.link.Close()
	if c.closing.Load() {
		err = nil
	} else {
		c.mu.Lock()
		explain := c.explain
		c.mu.Unlock()
		if explain != nil {
			err = explain(err)
		}
		err = c.lost(err)
	}
	c.mu.Lock()
	c.reason, c.dead = err, true
	closers := c.closers
	c.mu.Unlock()
	for _, f := range closers {
		f()
	}
	close(c.gone)
}

func (c *sshConn) lost(err error) error {
	var already *LostError
	if errors.As(err, &already) {
		return already
	}
	if errors.Is(err, io.EOF) {
		err = nil // "connection closed" says it better
	}
	if c.silent.Load() {
		err = fmt.Errorf("no answer to keepalives for %v", c.timeouts.silence())
	}
	return &LostError{Host: c.host, Address: c.address, Silent: c.silent.Load(), Err: err}
}

// silence is the time after which a connection that receives nothing is given up: as with ssh, the last request
// has an interval of its own to be answered in.
func (t Timeouts) silence() time.Duration { return t.Keepalive * time.Duration(t.KeepaliveCount+1) }

// keepalive asks for a sign of life whenever nothing was received for an interval, and ends the connection when none
// comes: a half-open connection gives no error by itself for hours. Whatever is received counts, as with ssh.
func (c *sshConn) keepalive() {
	ticker := time.NewTicker(c.timeouts.Keepalive)
	defer ticker.Stop()
	seen, since := c.link.received.Load(), time.Now()
	asking := make(chan struct{}, 1)
	for {
		select {
		case <-c.gone:
			return
		case <-ticker.C:
		}
		if now := c.link.received.Load(); now != seen {
			seen, since = now, time.Now()
			continue
		}
		// Half an interval makes up for a ticker that fires a little early.
		limit := c.timeouts.silence()
		if !c.used.Load() {
			limit = max(limit, c.timeouts.Channel) // sshd answers nothing while it sets up the session
		}
		if time.Since(since) >= limit-c.timeouts.Keepalive/2 {
			c.silent.Store(true)
			_ = c.link.Close()
			return
		}
		select {
		case asking <- struct{}{}:
			go func() {
				// Any reply will do, also a refusal. Where writing blocks, closing the link ends it.
				_, _, _ = c.client.SendRequest("keepalive@openssh.com", true, nil)
				<-asking
			}()
		default:
		}
	}
}

// User implements [Conn].
func (c *sshConn) User() string { return c.user }

// HostKey implements [Conn].
func (c *sshConn) HostKey() (string, Provenance) { return c.hostKey, c.provenance }

// Wait implements [Conn]. It is nil after Close.
func (c *sshConn) Wait() error {
	<-c.gone
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// closeGrace is how long Close lets the server know before it cuts the line.
const closeGrace = time.Second

// Close implements [Conn].
func (c *sshConn) Close() error {
	c.closing.Store(true)
	// Saying goodbye writes to the network, which may block; the timer does not.
	cut := time.AfterFunc(closeGrace, func() { _ = c.link.Conn.Close() })
	defer cut.Stop()
	_ = c.client.Close()
	<-c.gone
	return nil
}

// dial opens a byte stream from the server to address, for the next hop.
func (c *sshConn) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := c.client.DialContext(ctx, "tcp", address)
	c.used.Store(true)
	return conn, err
}

// startError explains why a command could not be started.
func (c *sshConn) startError(err error) error {
	if err == nil {
		return nil
	}
	if reason := c.lossWithin(0); reason != nil {
		return reason
	}
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		return fmt.Errorf("open channel on %q: %s (sshd's MaxSessions bounds them)", c.host, cleanText(refused.Error(), maxErrorText))
	}
	if c.link.broken() {
		return c.lossOr(err)
	}
	return fmt.Errorf("start command on %q: %w", c.host, err)
}

// lossWithin returns why the connection is gone, nil while it is not.
func (c *sshConn) lossWithin(patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.gone:
	default:
		select {
		case <-c.gone:
		case <-timer.C:
			return nil
		}
	}
	if reason := c.Wait(); reason != nil {
		return reason
	}
	return fmt.Errorf("connection to %q: %w", c.host, net.ErrClosed)
}

// lossOr is for a stream that has failed: the end of the connection is at hand.
func (c *sshConn) lossOr(err error) error {
	if reason := c.lossWithin(teardownPatience); reason != nil {
		return reason
	}
	return &LostError{Host: c.host, Address: c.address, Err: err}
}

// teardownPatience is how long the parts of a dying connection may take to notice; it is a matter of microseconds
// but for a master process that has to be waited for.
const teardownPatience = 2 * time.Second
