package proto

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
)

// Client is the operator's end of a connection. It is safe for concurrent use.
type Client struct {
	conn  *conn
	slots chan struct{}
	// greeted is closed once the agent's hello is known.
	greeted chan struct{}
	agent   Hello
}

type openMessage struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

// NewClient exchanges hellos over rw and owns rw from then on, also where it fails. Closing rw must unblock
// its Read and Write. ctx bounds the exchange alone. An agent of another version is an [*Error] with [CodeVersion], a
// wrong token one with [CodeToken].
func NewClient(ctx context.Context, rw io.ReadWriteCloser, hello Hello) (*Client, error) {
	return newClient(ctx, rw, hello, defaultTiming())
}

func newClient(ctx context.Context, rw io.ReadWriteCloser, hello Hello, t timing) (*Client, error) {
	c := begin(rw, hello, t)
	if err := c.Greeted(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Begin is the first half of [NewClient], and [Client.Greeted] the second: what is asked in between follows our hello at once, so
// that its answer arrives together with the agent's hello. Where the agent refuses our hello, that ends with the same error.
func Begin(rw io.ReadWriteCloser, hello Hello) *Client { return begin(rw, hello, defaultTiming()) }

func begin(rw io.ReadWriteCloser, hello Hello, t timing) *Client {
	br := bufio.NewReaderSize(rw, readAhead)
	c := &Client{conn: newConn(rw, br, t), slots: make(chan struct{}, MaxStreams), greeted: make(chan struct{})}
	c.conn.admit, c.conn.message = c.admit, c.message
	answered := make(chan struct{})
	c.conn.start(func() error {
		theirs, err := greeting(br, hello)
		c.agent = theirs
		close(answered)
		if err != nil {
			return err
		}
		close(c.greeted)
		return c.conn.readLoop()
	}, func() error {
		err := writeHello(rw, hello)
		if err == nil {
			err = c.conn.writeLoop()
		}
		<-answered // an agent that refuses us takes nothing more: what it has said of that counts
		return err
	})
	return c
}

// Greeted waits for the agent's hello, within a limit and until ctx ends, and closes the connection where it fails.
func (c *Client) Greeted(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.conn.timing.hello, lostf("no hello from the peer within %s", c.conn.timing.hello))
	defer cancel()
	select {
	case <-c.greeted:
		return nil
	case <-c.conn.done:
	case <-ctx.Done():
		c.conn.fail(context.Cause(ctx))
	}
	c.conn.wg.Wait()
	return c.conn.failure()
}

// Agent is the hello of the other side, once that is known.
func (c *Client) Agent() Hello { return c.agent }

// Call opens a stream, sends no data, and decodes the result into result, which may be nil.
// An error of the agent is an [*Error]; one of the connection wraps [ErrLost].
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	s, err := c.Open(ctx, method, params)
	if err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil && !errors.Is(err, ErrEnded) {
		return s.Result(nil)
	}
	return s.Result(result)
}

// Open begins a stream. The end of ctx cancels the stream at any time of its life, and is then the error
// that it returns. The stream holds one of [MaxStreams] places until the agent has ended it.
func (c *Client) Open(ctx context.Context, method string, params any) (*Stream, error) {
	text, err := openText(method, params)
	if err != nil {
		return nil, err
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.conn.done:
		return nil, c.conn.failure()
	}
	s, id := c.newStream(answerLimit(method, len(text)))
	if id == 0 {
		return nil, c.conn.failure()
	}
	err = c.conn.out.send(&item{typ: frameOpen, stream: id, payload: text, message: true}, ctx.Done())
	if err != nil {
		c.forget(id)
		if errors.Is(err, errWithdrawn) {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.giveUp(context.Cause(ctx), true) })
	s.onEnd(func() { stop() })
	return s, nil
}

// answerLimit bounds the answer to a request of a size, in bytes.
func answerLimit(method string, request int) int {
	switch method {
	case MethodClosure, MethodHoldings, MethodSecretsRun, MethodSecretsRewrap:
		return MaxMessage
	case MethodSecretsOpen:
		return maxSecretValue
	}
	return max(maxAnswer, request)
}

func openText(method string, params any) ([]byte, error) {
	m := openMessage{Method: method}
	if params != nil {
		text, err := json.Marshal(params)
		if err != nil {
			return nil, err
		}
		m.Params = text
	}
	return marshalMessage(m)
}

// newStream takes the next id, and 0 where the connection has ended.
func (c *Client) newStream(limit int) (*Stream, uint32) {
	cn := c.conn
	cn.mu.Lock()
	if cn.err == nil && cn.lastID == ^uint32(0) {
		cn.mu.Unlock()
		cn.fail(lostf("stream numbers are used up"))
		return nil, 0
	}
	defer cn.mu.Unlock()
	if cn.err != nil {
		return nil, 0
	}
	cn.lastID++
	id := cn.lastID
	s := newStream(cn, id, func() { cn.out.post(frameCancel, id) })
	s.limit = limit
	cn.streams[id] = s
	return s, id
}

// forget gives the stream's place back.
func (c *Client) forget(id uint32) {
	c.conn.mu.Lock()
	_, open := c.conn.streams[id]
	delete(c.conn.streams, id)
	c.conn.mu.Unlock()
	if open {
		<-c.slots
	}
}

func (c *Client) admit(typ frameType, id uint32, s *Stream) error {
	if s == nil || typ == frameOpen {
		return violationf("message of type %d for stream %d", typ, id)
	}
	return nil
}

func (c *Client) message(typ frameType, id uint32, s *Stream, text []byte) error {
	switch {
	case s == nil:
		return violationf("a second end of stream %d", id)
	case len(text) > s.limit:
		return violationf("an answer of %d bytes, the limit is %d", len(text), s.limit)
	case typ == frameResult:
		c.forget(id)
		s.end(text, nil)
	case typ == frameError:
		err := refusal(text)
		if _, ok := errors.AsType[*Error](err); !ok {
			return err
		}
		c.forget(id)
		s.end(nil, err)
	default:
		return violationf("the agent opened a stream")
	}
	return nil
}

// Done is closed when the connection has ended, for whatever reason.
func (c *Client) Done() <-chan struct{} { return c.conn.done }

// Err says why the connection has ended, and is nil before.
func (c *Client) Err() error { return c.conn.failure() }

// Close says goodbye, closes the connection and waits for its goroutines; streams that are open end with
// [ErrClosed]. It may be called more than once.
func (c *Client) Close() error {
	c.conn.close(ErrClosed)
	c.conn.wg.Wait()
	return nil
}
