// Package daemon is a client of the Nix daemon, for the worker protocol 1.34 (Nix 2.8) to 1.38.
//
// Operations are pipelined: those that take many paths send all requests before they wait, and several goroutines
// can use one connection at once. Replies are read while requests are written, so that neither side waits for the other.
// The daemon is asked for no optional feature, since features change the format of messages.
//
// An operation that the daemon refuses ends in an [*Error], and the connection can still be used. Anything else that goes
// wrong, and a context that ends while one of its operations is under way, closes the connection: the place in the stream is lost then.
package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"fleet/closure/storepath"
	"fleet/closure/wire"
)

const bufferSize = 128 << 10

// Conn is a connection to a daemon. It is safe for concurrent use.
//
// Temporary roots that were added live exactly as long as the connection.
type Conn struct {
	rw      io.ReadWriteCloser
	enc     wire.Encoder
	dec     decoder
	log     func(string)
	version protocolVersion
	nix     string
	trust   trust

	// writing holds one value while a request is written.
	writing chan struct{}

	mu     sync.Mutex
	queue  []*reply
	wake   chan struct{}
	err    error
	closed chan struct{}
	// ended is closed when the reading goroutine has ended, and interrupted, which is its own until then, says that a reply was still due.
	ended       chan struct{}
	interrupted bool
	once        sync.Once
	// closeErr is what closing rw returned.
	closeErr error
}

// ClosedError says that an operation met a connection that is closed.
type ClosedError struct {
	// Reason is why it was closed; it is not wrapped, because it may be another operation's cancelled context.
	Reason string
}

func (e *ClosedError) Error() string { return "nix daemon: the connection is closed: " + e.Reason }

// reply is what one call waits for: count replies of the daemon in a row.
type reply struct {
	count  int
	decode func(i int, d decoder) error
	done   chan struct{}
	err    error
}

// ConnOptions are the choices of [NewConn].
type ConnOptions struct {
	// Log receives the lines that the daemon prints, free of escape codes. It is called from one goroutine, and
	// must not use the connection.
	Log func(line string)
}

// NewConn shakes hands with a daemon over rw, and owns it from then on: it is closed when that fails, and by [Conn.Close].
// Closing rw must make its Read and Write return.
func NewConn(ctx context.Context, rw io.ReadWriteCloser, opts ConnOptions) (*Conn, error) {
	c := &Conn{
		rw:      rw,
		enc:     wire.Encoder{Writer: bufio.NewWriterSize(rw, bufferSize)},
		dec:     decoder{bufio.NewReaderSize(rw, bufferSize)},
		log:     opts.Log,
		writing: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		closed:  make(chan struct{}),
		ended:   make(chan struct{}),
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	err := c.handshake()
	stop()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		close(c.ended)
		c.fail(err)
		c.shut()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		var explained *processError
		if errors.As(c.closeErr, &explained) {
			err = errors.Join(err, c.closeErr)
		}
		return nil, fmt.Errorf("nix daemon: handshake: %w", err)
	}
	go c.read()
	return c, nil
}

// Close closes the connection. Operations under way fail with a [*ClosedError]. It may be called more than once. A connection that
// was lost before has told so to its users, and closing it is no error.
func (c *Conn) Close() error {
	orderly := c.fail(errors.New("closed by us"))
	<-c.ended
	c.shut()
	if !orderly || c.interrupted {
		return nil // a daemon that cannot send its reply says so when it ends
	}
	return c.closeErr
}

// Err returns why the connection is closed, or nil where it is not.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// shut closes rw once, and waits for it.
func (c *Conn) shut() { c.once.Do(func() { c.closeErr = c.rw.Close() }) }

// fail makes the connection unusable, and says whether it was usable until then.
func (c *Conn) fail(reason error) (first bool) {
	c.mu.Lock()
	first = c.err == nil
	if first {
		c.err = &ClosedError{Reason: reason.Error()}
		close(c.closed)
	}
	c.mu.Unlock()
	if first {
		// Closing may wait for a process, and whoever fails has others to tell.
		go c.shut()
	}
	return first
}

// read hands each reply of the daemon to the call that waits for it.
func (c *Conn) read() {
	defer close(c.ended)
	for {
		r := c.next()
		if r == nil {
			break
		}
		err := c.readReply(r)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the daemon closed it")
			}
			c.fail(err)
			r.err = c.Err()
			var protocol *FaultError
			if errors.As(err, &protocol) {
				r.err = err
			}
		}
		close(r.done)
		if err != nil {
			c.interrupted = true
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = c.interrupted || len(c.queue) > 0
	for _, r := range c.queue {
		r.err = c.err
		close(r.done)
	}
	c.queue = nil
}

// next returns the reply that is due, or nil when the connection is closed.
func (c *Conn) next() *reply {
	for {
		c.mu.Lock()
		if len(c.queue) > 0 {
			r := c.queue[0]
			c.queue = c.queue[1:]
			c.mu.Unlock()
			return r
		}
		c.mu.Unlock()
		select {
		case <-c.wake:
		case <-c.closed:
			return nil
		}
	}
}

// readReply returns an error only where the connection cannot be used any more.
func (c *Conn) readReply(r *reply) error {
	for i := range r.count {
		err := c.dec.messages(c.log)
		var refused *Error
		if errors.As(err, &refused) {
			if r.err == nil {
				r.err = refused
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := r.decode(i, c.dec); err != nil {
			return err
		}
	}
	return nil
}

// enqueue makes r the next reply that is expected. The caller is the one that writes.
func (c *Conn) enqueue(r *reply) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.queue = append(c.queue, r)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// send writes requests, and returns the reply to wait for. The write function may return an error that is not the
// connection's; the requests must be complete then, too.
func (c *Conn) send(ctx context.Context, r *reply, write func(e wire.Encoder) error) error {
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closed:
		return c.Err()
	}
	r.done = make(chan struct{})
	if err := c.enqueue(r); err != nil {
		return err
	}
	stop := c.closeWith(ctx)
	defer stop()
	writeErr := write(c.enc)
	if err := c.enc.Flush(); err != nil {
		c.fail(err)
	}
	return writeErr
}

// wait waits for a reply whose requests were sent.
func (c *Conn) wait(ctx context.Context, r *reply) error {
	stop := c.closeWith(ctx)
	defer stop()
	<-r.done
	if err := ctx.Err(); err != nil && r.err != nil {
		return err
	}
	return r.err
}

// closeWith closes the connection when ctx ends before the returned function is called.
func (c *Conn) closeWith(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
}

// call sends count requests and waits for their replies. The error is the first of them.
func (c *Conn) call(ctx context.Context, count int, write func(i int, e wire.Encoder), decode func(i int, d decoder) error) error {
	if count == 0 {
		return nil
	}
	r := &reply{count: count, decode: decode}
	err := c.send(ctx, r, func(e wire.Encoder) error {
		for i := range count {
			write(i, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.wait(ctx, r)
}

// pathCall is [Conn.call] for an operation that takes one path.
func (c *Conn) pathCall(ctx context.Context, op uint64, paths []storepath.Path, decode func(i int, d decoder) error) error {
	return c.call(ctx, len(paths), func(i int, e wire.Encoder) {
		e.Number(op)
		e.Path(paths[i])
	}, decode)
}
