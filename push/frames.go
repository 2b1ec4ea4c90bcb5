package push

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"

	"fleet/push/pack"
)

const (
	// measured is how much is sent between two looks at the link's speed, in bytes: buffers on the way take some without waiting.
	measured = 3 << 20
	// A link is what a push waits for where writing to it takes more than waiting of the time. Below slow bytes/s the best compression keeps up with it on one
	// processor, below medium a better one; above fast, compressing takes longer than sending would.
	waiting            = 0.5
	slow, medium, fast = 3e6, 14e6, 50e6
)

// frames is the cache of frames that all sessions share.
func (c *Connector) frames() *pack.Cache {
	c.packOnce.Do(func() { c.pack = pack.NewCache(c.Source) })
	return c.pack
}

// frameWriter writes frames in their order, while the next ones are made.
type frameWriter struct {
	cache *pack.Cache
	link  *gauge
	// fixed is zstd's level that the operator has set, 0 where none is.
	fixed int
}

// writeAll writes frames.
func (w *frameWriter) writeAll(ctx context.Context, specs []pack.Spec) error {
	ahead := 2*runtime.NumCPU() + 1
	var pending []*pack.Frame
	for next, done := 0, 0; done < len(specs); done++ {
		for ; next < len(specs) && next < done+ahead; next++ {
			pending = append(pending, w.cache.Get(specs[next], w.level()))
		}
		data, err := pending[0].Bytes(ctx)
		pending = pending[1:]
		if errors.Is(err, pack.ErrNotWorth) {
			if err := w.writeAll(ctx, pack.Pieces(specs[done].Entries[0])); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if _, err := w.link.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// level is how hard the next frame is compressed.
func (w *frameWriter) level() pack.Level {
	if w.fixed != 0 {
		return pack.LevelOf(w.fixed)
	}
	rate, share := w.link.rate, w.link.share
	switch {
	case rate == 0:
		return pack.Fastest
	case rate > fast:
		return pack.None
	case share < waiting:
		return pack.Fastest
	case rate < slow:
		return pack.Best
	case rate < medium:
		return pack.Better
	}
	return pack.Default
}

// gauge measures what it passes on.
type gauge struct {
	w io.Writer
	// begun is when it looked last; bytes were written since then, in the time spent.
	begun time.Time
	bytes int64
	spent time.Duration
	// rate is how fast the link took bytes then, in bytes/s, and share how much of the time writing took; zero where too little was written to know.
	rate, share float64
}

func (g *gauge) Write(p []byte) (int, error) {
	now := time.Now()
	if g.begun.IsZero() {
		g.begun = now
	}
	n, err := g.w.Write(p)
	g.bytes += int64(n)
	g.spent += time.Since(now)
	if g.bytes >= measured {
		g.rate, g.share = float64(g.bytes)/g.spent.Seconds(), g.spent.Seconds()/time.Since(g.begun).Seconds()
		g.begun, g.bytes, g.spent = time.Now(), 0, 0
	}
	return n, err
}
