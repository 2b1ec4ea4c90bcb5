package proto

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

var errWithdrawn = errors.New("frame withdrawn")

// item is what one stream wants to send: a piece of data, or a message that is cut into frames.
type item struct {
	typ     frameType
	stream  uint32
	payload []byte
	// message says that all but the last frame have type [frameMore].
	message bool
	// flush says that it must have left our buffers when it is done.
	flush   bool
	started bool
	done    chan error
}

// outbox orders what leaves. Small control frames go first; what is bulky takes turns, one frame an
// item, so that neither a large result nor a fast stream delays the others.
type outbox struct {
	mu      sync.Mutex
	cond    *sync.Cond
	control []frame
	// credits are summed up per stream until they are sent, so that their number is bounded by the streams'.
	credits map[uint32]uint32
	ping    bool
	bulk    []*item
	err     error
}

func newOutbox() *outbox {
	o := &outbox{credits: make(map[uint32]uint32)}
	o.cond = sync.NewCond(&o.mu)
	return o
}

// send queues it and waits until it was written. Where stop is closed before its first frame was
// written, it is withdrawn and errWithdrawn returned; afterwards it is sent to its end, so that messages are never cut.
func (o *outbox) send(it *item, stop <-chan struct{}) error {
	it.done = make(chan error, 1)
	o.mu.Lock()
	if o.err != nil {
		defer o.mu.Unlock()
		return o.err
	}
	o.bulk = append(o.bulk, it)
	o.cond.Signal()
	o.mu.Unlock()
	select {
	case err := <-it.done:
		return err
	case <-stop:
		if o.withdraw(it) {
			return errWithdrawn
		}
		return <-it.done
	}
}

func (o *outbox) withdraw(it *item) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if it.started {
		return false
	}
	for i, queued := range o.bulk {
		if queued == it {
			o.bulk = append(o.bulk[:i], o.bulk[i+1:]...)
			return true
		}
	}
	return false
}

// post queues a frame without payload. Its callers send at most two for each stream.
func (o *outbox) post(typ frameType, stream uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.control = append(o.control, frame{typ: typ, stream: stream})
	o.cond.Signal()
}

func (o *outbox) postCredit(stream, n uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.credits[stream] += n
	o.cond.Signal()
}

func (o *outbox) postPing() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ping = true
	o.cond.Signal()
}

// close ends the writer and fails all that waits.
func (o *outbox) close(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return
	}
	o.err = err
	for _, it := range o.bulk {
		it.started = true
		it.done <- err
	}
	o.bulk = nil
	o.cond.Broadcast()
}

// next takes the next frame, and the item that it belongs to where it is a bulky one. Where idle is
// not nil it is called, once, before waiting.
func (o *outbox) next(idle func() error) (frame, *item, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		if o.err != nil {
			return frame{}, nil, o.err
		}
		if f, ok := o.nextControl(); ok {
			return f, nil, nil
		}
		if len(o.bulk) > 0 {
			f, it := o.nextBulk()
			return f, it, nil
		}
		if idle != nil {
			o.mu.Unlock()
			err := idle()
			o.mu.Lock()
			if err != nil {
				return frame{}, nil, err
			}
			idle = nil
			continue
		}
		o.cond.Wait()
	}
}

func (o *outbox) nextControl() (frame, bool) {
	if len(o.control) > 0 {
		f := o.control[0]
		o.control = o.control[1:]
		return f, true
	}
	for stream, n := range o.credits {
		delete(o.credits, stream)
		return frame{typ: frameCredit, stream: stream, payload: binary.BigEndian.AppendUint32(nil, n)}, true
	}
	if o.ping {
		o.ping = false
		return frame{typ: framePing}, true
	}
	return frame{}, false
}

// nextBulk takes one frame of the first item and puts the item at the end of the queue where more of it remains.
func (o *outbox) nextBulk() (frame, *item) {
	it := o.bulk[0]
	o.bulk = o.bulk[1:]
	it.started = true
	f := frame{typ: it.typ, stream: it.stream, payload: it.payload}
	if len(it.payload) > MaxFrame {
		f.payload, it.payload = it.payload[:MaxFrame], it.payload[MaxFrame:]
		if it.message {
			f.typ = frameMore
		}
		o.bulk = append(o.bulk, it)
		return f, nil
	}
	return f, it
}

// run writes frames until the outbox is closed or w fails.
func (o *outbox) run(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	for {
		f, it, err := o.next(bw.Flush)
		if err != nil {
			return err
		}
		err = writeFrame(bw, f.typ, f.stream, f.payload)
		if err == nil && it != nil && it.flush {
			err = bw.Flush()
		}
		if it != nil {
			it.done <- err
		}
		if err != nil {
			return err
		}
	}
}
