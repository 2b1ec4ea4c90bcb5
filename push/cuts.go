package push

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"sync"

	"fleet/closure"
	"fleet/closure/chunk"
	"fleet/closure/storepath"
)

// maxCuts bounds the chunks that are remembered: some 50 MB, which are 32 GiB of NARs.
const maxCuts = 1 << 21

// cuts cuts paths into chunks, each once for all hosts. The zero value is ready; it is safe for concurrent use.
type cuts struct {
	keyed sync.Once
	key   chunk.Key

	mu    sync.Mutex
	known map[storepath.Path]*once[[]chunk.Chunk]
	// held is how many chunks are known.
	held int
}

// secret is what hashes of chunks depend on: one random key for all hosts of a deployment, so that what was cut for one is of use for the next.
func (c *cuts) secret() chunk.Key {
	// crypto/rand.Read never fails: it ends the program instead.
	c.keyed.Do(func() { _, _ = rand.Read(c.key[:]) })
	return c.key
}

// get returns the chunks of a path.
func (c *cuts) get(ctx context.Context, source closure.Source, info closure.PathInfo) ([]chunk.Chunk, error) {
	c.mu.Lock()
	entry, found := c.known[info.Path]
	if !found {
		if c.known == nil || c.held > maxCuts {
			c.known, c.held = make(map[storepath.Path]*once[[]chunk.Chunk]), 0
		}
		entry = newOnce[[]chunk.Chunk]()
		c.known[info.Path] = entry
	}
	c.mu.Unlock()
	cut := func() ([]chunk.Chunk, error) { return cutNAR(ctx, source, c.secret(), info) }
	if found {
		return entry.wait(ctx, cut)
	}
	return entry.make(cut, func() { c.note(info.Path, entry) })
}

// note counts what was cut. What could not be cut is tried again by the next one who asks.
func (c *cuts) note(path storepath.Path, entry *once[[]chunk.Chunk]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry.err != nil && c.known[path] == entry {
		delete(c.known, path)
	}
	c.held += len(entry.value)
}

// cutNAR cuts the NAR of a path.
func cutNAR(ctx context.Context, source closure.Source, key chunk.Key, info closure.PathInfo) ([]chunk.Chunk, error) {
	view, err := source.View(ctx, info.Path)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	if uint64(view.Size()) != info.NarSize {
		return nil, fmt.Errorf("%q has %d bytes, not %d", info.Path, view.Size(), info.NarSize)
	}
	var chunks []chunk.Chunk
	err = chunk.NewCutter(key).Cut(endingReader{ctx, view}, view.Size(), func(c chunk.Chunk) error {
		chunks = append(chunks, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return chunks, nil
}

// endingReader reads until a context ends.
type endingReader struct {
	ctx context.Context
	io.ReaderAt
}

func (r endingReader) ReadAt(p []byte, off int64) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.ReaderAt.ReadAt(p, off)
}
