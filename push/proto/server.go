package proto

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
)

// Handler answers requests, each in a goroutine of its own. The context ends when the client cancels the
// stream, when the connection is lost, and when the agent stops; Handle must then return. An error that is no [*Error] crosses
// with [CodeInternal].
type Handler interface {
	Handle(ctx context.Context, req *Request) (result any, err error)
}

// HandlerFunc is a function that is a [Handler].
type HandlerFunc func(ctx context.Context, req *Request) (any, error)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, req *Request) (any, error) { return f(ctx, req) }

// Request is one stream as the agent sees it.
type Request struct {
	Method string
	// Stream carries the request's data. It ends when Handle returns.
	Stream *Stream
	params json.RawMessage
}

// Decode decodes the parameters strictly: a field that the agent does not know is an error with [CodeUsage].
func (r *Request) Decode(params any) error {
	text := r.params
	if len(text) == 0 {
		text = json.RawMessage("{}")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(params); err != nil {
		return Errorf(CodeUsage, "decode parameters of %q: %v", r.Method, err)
	}
	return nil
}

type server struct {
	conn    *conn
	handler Handler
	ctx     context.Context // of the connection; the owner of it is Serve
}

// Serve answers one connection until it ends or ctx does, and returns after the last handler has. It owns rw, and
// closing rw must unblock its Read and Write. It returns nil after a goodbye from the client and when ctx ended, an
// [*Error] where the hello was refused, and an error that wraps [ErrLost] else.
func Serve(ctx context.Context, rw io.ReadWriteCloser, token string, h Handler) error {
	return serve(ctx, rw, token, h, defaultTiming())
}

func serve(ctx context.Context, rw io.ReadWriteCloser, token string, h Handler, t timing) error {
	br := bufio.NewReaderSize(rw, readAhead)
	err := bounded(ctx, rw, t.hello, func() error { return welcome(rw, br, token) })
	if err != nil {
		rw.Close() // the first error counts
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	c := newConn(rw, br, t)
	handlers, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{conn: c, handler: h, ctx: handlers}
	c.admit, c.message = s.admit, s.message
	stop := context.AfterFunc(ctx, func() { c.close(ErrClosed) })
	defer stop()
	c.start(c.readLoop, c.writeLoop)
	<-c.done
	cancel()
	c.wg.Wait()
	err = c.failure()
	if ctx.Err() != nil || errors.Is(err, errBye) || errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// admit checks the first frame of a request; ids only grow.
func (s *server) admit(typ frameType, id uint32, stream *Stream) error {
	if stream != nil || (typ != frameOpen && typ != frameMore) || id <= s.conn.lastID {
		return violationf("message of type %d for stream %d", typ, id)
	}
	if len(s.conn.streams) >= maxServed {
		return violationf("more than %d streams", maxServed)
	}
	s.conn.lastID = id
	return nil
}

func (s *server) message(typ frameType, id uint32, _ *Stream, text []byte) error {
	if typ != frameOpen {
		return violationf("message of type %d from a client", typ)
	}
	var m openMessage
	if err := json.Unmarshal(text, &m); err != nil {
		return violationf("request is no JSON: %v", err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	stream := newStream(s.conn, id, cancel)
	s.conn.mu.Lock()
	if s.conn.err != nil || len(s.conn.streams) >= maxServed {
		err := s.conn.err
		s.conn.mu.Unlock()
		cancel()
		if err == nil {
			err = violationf("more than %d streams", maxServed)
		}
		return err
	}
	s.conn.streams[id] = stream
	s.conn.wg.Add(1)
	s.conn.mu.Unlock()
	go func() {
		defer s.conn.wg.Done()
		defer cancel()
		result, err := s.handler.Handle(ctx, &Request{Method: m.Method, Stream: stream, params: m.Params})
		s.finish(stream, result, err)
	}()
	return nil
}

// finish sends the end of a stream after all of its data.
func (s *server) finish(stream *Stream, result any, err error) {
	it := &item{typ: frameResult, stream: stream.id, message: true}
	if err == nil {
		it.payload, err = marshalMessage(result)
	}
	if err != nil {
		it.typ = frameError
		if it.payload, err = marshalMessage(asError(err)); err != nil {
			it.payload = []byte(`{"code":"internal","message":"the error was too large to send"}`)
		}
	}
	stream.end(nil, nil)
	stream.awaitWriter()
	_ = s.conn.out.send(it, nil) // a lost connection is reported by Serve
	s.conn.remove(stream.id)
}
