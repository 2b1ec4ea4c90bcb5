package proto

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Stream is one request and its data. Read, Write, Result and Cancel may be called from different
// goroutines; Reads and Writes among themselves may not run at once.
type Stream struct {
	out *outbox
	id  uint32
	// limit bounds the answer, in bytes, on a client.
	limit int

	// writing is held by Write, and taken by the end of the stream, so that nothing follows the end.
	writing sync.Mutex

	mu   sync.Mutex
	cond *sync.Cond // on mu: anything below has changed
	// unread is what was received and not read, at most [Window] bytes.
	unread backlog
	// allowed is what the peer may still send; read is what was read and not given back yet.
	allowed, read uint32
	recvEOF       bool
	credit        uint32
	sentEOF       bool
	// over is closed at the end of the stream, whatever ended it.
	over chan struct{}
	// ended: the peer (on a client) or the handler (on an agent) has ended it. result and err say how.
	ended  bool
	result json.RawMessage
	err    error
	// local is why this side gave it up, or why the connection was lost.
	local     error
	cancelled bool
	// cancel is what Cancel does: a frame to the agent, or the end of the handler's context.
	cancel func()
	// release is called at the end, whatever ended it.
	release func()
}

func newStream(c *conn, id uint32, cancel func()) *Stream {
	s := &Stream{out: c.out, id: id, unread: backlog{spare: &c.spare}, allowed: Window, credit: Window, over: make(chan struct{}), cancel: cancel}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// Read reads data from the peer. It returns [io.EOF] once the peer has sent all, and the stream's error where it ended
// in one. Data that arrived before the end can still be read after it.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.cancelled:
			return 0, s.local
		case s.unread.size > 0:
			n := s.unread.read(p)
			s.giveBack(n)
			return n, nil
		case s.recvEOF:
			return 0, io.EOF
		case s.ended && s.err != nil:
			return 0, s.err
		case s.ended:
			return 0, io.EOF
		case s.local != nil:
			return 0, s.local
		case len(p) == 0:
			return 0, nil
		}
		s.cond.Wait()
	}
}

// giveBack returns credit once half of the window was read, so that credits are few and the sender never starves.
func (s *Stream) giveBack(n int) {
	s.read += uint32(n)
	if s.read < Window/2 || s.recvEOF || s.ended || s.local != nil {
		return
	}
	s.allowed += s.read
	s.out.postCredit(s.id, s.read)
	s.read = 0
}

// Write sends data to the peer and returns when it is on its way; it blocks while the peer does
// not read. It returns [ErrEnded] where the peer has ended the stream.
func (s *Stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	written := 0
	for written < len(p) {
		n, err := s.takeCredit(len(p) - written)
		if err != nil {
			return written, err
		}
		err = s.out.send(&item{typ: frameData, stream: s.id, payload: p[written : written+n]}, s.over)
		if errors.Is(err, errWithdrawn) {
			err = s.writeError()
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

func (s *Stream) takeCredit(want int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.credit == 0 && s.writable() == nil {
		s.cond.Wait()
	}
	if err := s.writable(); err != nil {
		return 0, err
	}
	n := min(want, int(s.credit), MaxFrame)
	s.credit -= uint32(n)
	return n, nil
}

func (s *Stream) writeError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writable()
}

func (s *Stream) writable() error {
	switch {
	case s.local != nil:
		return s.local
	case s.ended:
		return ErrEnded
	case s.sentEOF:
		return fmt.Errorf("write to stream: %w", io.ErrClosedPipe)
	}
	return nil
}

// CloseWrite tells the peer that no more data follows. It may be called more than once.
func (s *Stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sentEOF || s.ended {
		return nil
	}
	if s.local != nil {
		return s.local
	}
	s.sentEOF = true
	s.out.post(frameEOF, s.id)
	return nil
}

// Result waits for the stream's end and decodes what the agent answered into result, which may be
// nil. Where the method sends data, read it until EOF first: an agent whose data nobody reads does not come to its end.
func (s *Stream) Result(result any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended && s.local == nil {
		s.cond.Wait()
	}
	switch {
	case s.cancelled:
		return s.local
	case s.ended && s.err != nil:
		return s.err
	case !s.ended:
		return s.local
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(s.result, result); err != nil {
		return fmt.Errorf("decode result: %w", err)
	}
	return nil
}

// Cancel tells the agent to stop and gives the stream up: what waits in Read, Write and Result returns
// an error with [CodeCancelled]. On an agent it ends the handler's context. It may be called more than once, and after the end.
func (s *Stream) Cancel() { s.giveUp(errCancelled(), true) }

// giveUp ends the stream from this side: err is what callers see.
func (s *Stream) giveUp(err error, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.local != nil {
		return
	}
	s.local = err
	if tell {
		s.cancelled = true
		s.unread.drop()
		s.cancel()
	}
	s.finish()
}

// finish wakes whoever waits; mu is held.
func (s *Stream) finish() {
	close(s.over)
	if s.release != nil {
		s.release()
	}
	s.cond.Broadcast()
}

// onEnd sets what is called once at the end, at once where that has come already.
func (s *Stream) onEnd(release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.local != nil {
		release()
		return
	}
	s.release = release
}

// end marks the stream as ended by the peer or the handler. It reports whether it was open.
func (s *Stream) end(result json.RawMessage, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.ended, s.result, s.err = true, result, err
	if s.local == nil {
		s.finish()
	}
	return true
}

// awaitWriter returns when no Write is under way. After the stream's end none begins.
func (s *Stream) awaitWriter() {
	s.writing.Lock()
	defer s.writing.Unlock()
}

// receive takes data, and returns true where it keeps the memory that it lies in.
func (s *Stream) receive(data []byte) (kept bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recvEOF {
		return false, violationf("data after the end of stream %d's data", s.id)
	}
	if uint32(len(data)) > s.allowed {
		return false, violationf("stream %d sent %d bytes with a credit of %d", s.id, len(data), s.allowed)
	}
	s.allowed -= uint32(len(data))
	if s.cancelled || s.ended {
		return false, nil
	}
	s.cond.Broadcast()
	return s.unread.add(data), nil
}

func (s *Stream) receiveEOF() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recvEOF {
		return violationf("stream %d ended its data twice", s.id)
	}
	s.recvEOF = true
	s.cond.Broadcast()
	return nil
}

func (s *Stream) receiveCredit(n uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > Window || s.credit+n > Window {
		return violationf("stream %d was given more than its window", s.id)
	}
	s.credit += n
	s.cond.Broadcast()
	return nil
}
