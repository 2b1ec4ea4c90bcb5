package pack

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"runtime"
	"sync"

	"fleet/closure"
)

// defaultMemory bounds the frames that a Cache keeps, in bytes.
const defaultMemory = 128 << 20

// Cache makes frames, as many at once as there are processors, and keeps those that were asked for last: what many hosts miss is read, compared and
// compressed once. A frame that is not kept any more is made again. It is safe for concurrent use; the zero value is not usable.
type Cache struct {
	memory int
	// workers are those that have nothing to do.
	workers chan *worker

	mu     sync.Mutex
	frames map[[sha256.Size]byte]*Frame
	// done are the frames that were made, the one that was asked for last in front, and size is what they take.
	done *list.List
	size int
	made int
}

// Frame is a frame that was made or is being made.
type Frame struct {
	key   [sha256.Size]byte
	ready chan struct{}
	// data and err are set before ready is closed.
	data []byte
	err  error
	// place is that in the list of those that were made; under the cache's mu.
	place *list.Element
}

// NewCache makes a Cache that reads from source.
func NewCache(source closure.Source) *Cache { return newCache(source, defaultMemory) }

func newCache(source closure.Source, memory int) *Cache {
	c := &Cache{memory: memory, workers: make(chan *worker, runtime.NumCPU()), frames: map[[sha256.Size]byte]*Frame{}, done: list.New()}
	for range cap(c.workers) {
		c.workers <- newWorker(source)
	}
	return c
}

// Get returns the frame, which may still have to be made. That goes on whoever asked has gone away, since others may wait for it.
func (c *Cache) Get(spec Spec, level Level) *Frame {
	key := spec.key(level)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.frames[key]; f != nil {
		if f.place != nil {
			c.done.MoveToFront(f.place)
		}
		return f
	}
	f := &Frame{key: key, ready: make(chan struct{})}
	c.frames[key] = f
	go c.make(f, spec, level)
	return f
}

func (c *Cache) make(f *Frame, spec Spec, level Level) {
	w := <-c.workers
	f.data, f.err = w.pack(context.Background(), spec, level)
	c.workers <- w
	defer close(f.ready)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	if f.err != nil && !errors.Is(f.err, ErrNotWorth) {
		delete(c.frames, f.key) // the next one may find it mended
		return
	}
	f.place = c.done.PushFront(f)
	c.size += len(f.data)
	for c.size > c.memory && c.done.Len() > 1 {
		oldest := c.done.Remove(c.done.Back()).(*Frame)
		delete(c.frames, oldest.key)
		c.size -= len(oldest.data)
	}
}

// Made is how many frames were made.
func (c *Cache) Made() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made
}

// Bytes waits for the frame. They are not to be changed.
func (f *Frame) Bytes(ctx context.Context) ([]byte, error) {
	select {
	case <-f.ready:
		return f.data, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
