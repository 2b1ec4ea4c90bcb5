package proto

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// timing holds the protocol's times, so that a test can shorten them.
type timing struct {
	// hello bounds the exchange of hellos.
	hello time.Duration
	// ping is the time between two pings; both sides send them, also while data flows, so that a
	// congested direction says nothing against the other one.
	ping time.Duration
	// silence is how long a peer may send nothing at all.
	silence time.Duration
	// bye bounds an orderly close.
	bye time.Duration
}

func defaultTiming() timing {
	return timing{hello: 20 * time.Second, ping: 15 * time.Second, silence: 60 * time.Second, bye: 2 * time.Second}
}

// errBye is the end of a connection that the peer closed on purpose.
var errBye = errors.New("closed by the peer")

// conn is what both sides of a connection share.
type conn struct {
	rw     io.ReadWriteCloser
	frames frameReader
	spare  spareFrames
	out    *outbox
	timing timing
	// heard is when the last frame came, in nanoseconds after began.
	heard atomic.Int64
	began time.Time
	// admit checks the first frame of a message: s is its stream, nil where there is none. It is called with mu held.
	admit func(typ frameType, id uint32, s *Stream) error
	// message is called by the reader with every complete message, which it owns.
	message func(typ frameType, id uint32, s *Stream, text []byte) error

	mu      sync.Mutex
	streams map[uint32]*Stream
	lastID  uint32
	// partials are the messages that have not arrived whole, and partial counts their bytes.
	partials map[uint32][]byte
	partial  int
	err      error
	// closing is why this side closes the connection. It wins over what the peer's reaction to our goodbye looks like.
	closing error
	done    chan struct{}
	wg      sync.WaitGroup
}

func newConn(rw io.ReadWriteCloser, br *bufio.Reader, t timing) *conn {
	c := &conn{
		rw: rw, out: newOutbox(), timing: t, began: time.Now(),
		streams: make(map[uint32]*Stream), partials: make(map[uint32][]byte), done: make(chan struct{}),
	}
	c.frames = frameReader{r: br, spare: &c.spare}
	return c
}

// start runs the reader, the writer and the watch.
func (c *conn) start(read, write func() error) {
	c.wg.Add(3)
	go func() { defer c.wg.Done(); c.fail(read()) }()
	go func() { defer c.wg.Done(); c.fail(lostIO(write())) }()
	go func() { defer c.wg.Done(); c.watch() }()
}

// writeLoop sends what is queued.
func (c *conn) writeLoop() error { return c.out.run(c.rw) }

// fail ends the connection; the first reason stays.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if c.closing != nil {
		err = c.closing
	}
	c.err = err
	streams := c.streams
	c.streams = make(map[uint32]*Stream)
	c.partials = make(map[uint32][]byte)
	c.mu.Unlock()
	c.out.close(err)
	c.rw.Close() // the reason is known already
	for _, s := range streams {
		s.giveUp(err, false)
	}
	close(c.done)
}

func (c *conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// close ends the connection in order: what was queued is sent, then a goodbye.
func (c *conn) close(reason error) {
	c.mu.Lock()
	c.closing = reason
	c.mu.Unlock()
	stop := make(chan struct{})
	timer := time.AfterFunc(c.timing.bye, func() { c.fail(reason) })
	defer timer.Stop()
	_ = c.out.send(&item{typ: frameBye, flush: true}, stop) // a connection that is lost needs no goodbye
	c.fail(reason)
}

func (c *conn) watch() {
	ticker := time.NewTicker(c.timing.ping)
	defer ticker.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-ticker.C:
		}
		silent := time.Since(c.began) - time.Duration(c.heard.Load())
		if silent > c.timing.silence {
			c.fail(lostf("the peer has sent nothing for %s", silent.Round(time.Second)))
			return
		}
		c.out.postPing()
	}
}

func (c *conn) readLoop() error {
	for {
		f, err := c.frames.next()
		if err != nil {
			return lostIO(err)
		}
		c.heard.Store(int64(time.Since(c.began)))
		if f.typ == frameBye {
			return lostf("%w", errBye)
		}
		if err := c.dispatch(f); err != nil {
			return lostIO(err)
		}
	}
}

// dispatch handles one frame. It never blocks on a stream or on the peer, so that no stream holds up the others.
func (c *conn) dispatch(f frame) error {
	c.mu.Lock()
	s := c.streams[f.stream]
	known := f.stream <= c.lastID
	c.mu.Unlock()
	switch f.typ {
	case framePing:
		return nil
	case frameOpen, frameResult, frameError, frameMore:
		return c.assemble(f, s)
	case frameHello:
		return violationf("a second hello")
	}
	if !known {
		return violationf("frame of type %d for stream %d, which was never opened", f.typ, f.stream)
	}
	if s == nil {
		return nil // it has ended; the peer may not know yet
	}
	switch f.typ {
	case frameData:
		kept, err := s.receive(f.payload)
		if kept {
			c.frames.keep()
		}
		return err
	case frameEOF:
		return s.receiveEOF()
	case frameCredit:
		return s.receiveCredit(binary.BigEndian.Uint32(f.payload))
	case frameCancel:
		s.Cancel()
		return nil
	}
	return violationf("unexpected frame of type %d", f.typ)
}

// assemble collects the frames of a message and hands it on when it is whole.
func (c *conn) assemble(f frame, s *Stream) error {
	whole, err := c.collect(f, s)
	if err != nil || f.typ == frameMore {
		return err
	}
	return c.message(f.typ, f.stream, s, whole)
}

func (c *conn) collect(f frame, s *Stream) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have, begun := c.partials[f.stream]
	if !begun {
		if err := c.admit(f.typ, f.stream, s); err != nil {
			return nil, err
		}
		if f.typ == frameMore && len(c.partials) >= maxServed {
			return nil, violationf("more than %d unfinished messages", maxServed)
		}
	}
	if len(have)+len(f.payload) > MaxMessage || c.partial+len(f.payload) > maxPartial {
		return nil, violationf("message of more than %d bytes", MaxMessage)
	}
	whole := append(have, f.payload...)
	if f.typ == frameMore {
		c.partials[f.stream] = whole
		c.partial += len(f.payload)
		return nil, nil
	}
	c.partial -= len(have)
	delete(c.partials, f.stream)
	return whole, nil
}

func (c *conn) remove(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, id)
}

// lostIO makes what ended a reader or writer into an error that wraps [ErrLost].
func lostIO(err error) error {
	if errors.Is(err, ErrLost) || errors.Is(err, ErrClosed) {
		return err
	}
	if errors.Is(err, io.EOF) {
		return lostf("the peer ended it without a goodbye")
	}
	return lostf("%w", err)
}

func marshalMessage(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(text) > MaxMessage {
		return nil, Errorf(CodeUsage, "message of %d bytes, the limit is %d", len(text), MaxMessage)
	}
	return text, nil
}
