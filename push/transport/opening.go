package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// opening is a session channel that the server was asked for.
type opening struct {
	// answered is closed once the rest is known.
	answered chan struct{}
	channel  ssh.Channel
	requests <-chan *ssh.Request
	err      error
}

func (c *sshConn) newOpening() *opening {
	o := &opening{answered: make(chan struct{})}
	go func() {
		defer close(o.answered)
		o.channel, o.requests, o.err = c.client.OpenChannel("session", nil)
	}()
	return o
}

// discard closes a channel that nobody wants. It may still open, or the end of the connection ends the waiting.
func (o *opening) discard() {
	go func() {
		if <-o.answered; o.err == nil {
			go ssh.DiscardRequests(o.requests)
			_ = o.channel.Close()
		}
	}()
}

// Prepare implements [Conn].
func (c *sshConn) Prepare(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.spares) < n {
		c.spares = append(c.spares, c.newOpening())
	}
	for _, o := range c.spares[n:] {
		o.discard()
	}
	c.spares = c.spares[:n]
}

// Prepared implements [Conn].
func (c *sshConn) Prepared() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	open := 0
	for _, o := range c.spares {
		select {
		case <-o.answered:
			if o.err == nil {
				open++
			}
		default:
		}
	}
	return open
}

// spare takes a channel that was opened ahead, nil where there is none.
func (c *sshConn) spare() *opening {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.spares) == 0 {
		return nil
	}
	o := c.spares[0]
	c.spares = c.spares[1:]
	return o
}

const (
	// openTries is how often a channel is asked for that the server refuses, and openPause the time before the second try; it doubles.
	openTries = 4
	openPause = 25 * time.Millisecond
)

// openChannel returns a channel that was opened ahead, or opens one. A server that allows few at a time may have refused some of the
// former, and sshd counts those that we have just closed for a moment still.
func (c *sshConn) openChannel(ctx context.Context) (*opening, error) {
	for o := c.spare(); o != nil; o = c.spare() {
		if err := c.await(ctx, o); !isRefusal(err) {
			return o, c.startError(err)
		}
	}
	for try, pause := 1, openPause; ; try, pause = try+1, 2*pause {
		o := c.newOpening()
		err := c.await(ctx, o)
		if !isRefusal(err) || try == openTries {
			return o, c.startError(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, c.startError(ctx.Err())
		}
	}
}

func isRefusal(err error) bool {
	_, refused := errors.AsType[*ssh.OpenChannelError](err)
	return refused
}

// await waits for a channel within the limits of ctx and the timeouts.
func (c *sshConn) await(ctx context.Context, o *opening) error {
	timer := time.NewTimer(c.timeouts.Channel)
	defer timer.Stop()
	select {
	case <-o.answered:
		c.used.Store(true)
		return o.err
	case <-ctx.Done():
		o.discard()
		return ctx.Err()
	case <-timer.C:
		o.discard()
		return fmt.Errorf("no answer within %v", c.timeouts.Channel)
	}
}
