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
	// measured is how much has to be sent before the link's speed is believed, in bytes: buffers on the way take some without waiting.
	measured = 4 << 20
	// A link is what a push waits for where writing to it takes more than waiting of the time. Below slow bytes/s the best compression keeps up with it on one
	// processor, below medium a better one.
	waiting      = 0.5
	slow, medium = 3e6, 14e6
	// Above fast bytes/s without waiting, compressing is what takes the time.
	fast = 60e6
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
	rate, share := w.link.rate()
	switch {
	case rate == 0:
		return pack.Default
	case share > waiting && rate < slow:
		return pack.Best
	case share > waiting && rate < medium:
		return pack.Better
	case share < 1-waiting && rate > fast:
		return pack.Fastest
	}
	return pack.Default
}

// gauge measures what it passes on.
type gauge struct {
	w     io.Writer
	begun time.Time
	// bytes were written in the time spent.
	bytes int64
	spent time.Duration
}

func (g *gauge) Write(p []byte) (int, error) {
	now := time.Now()
	if g.begun.IsZero() {
		g.begun = now
	}
	n, err := g.w.Write(p)
	g.bytes += int64(n)
	g.spent += time.Since(now)
	return n, err
}

// rate is how fast the link takes bytes, in bytes/s, and the share of the time that writing took; zero where too little was written to know.
func (g *gauge) rate() (rate, share float64) {
	if g.bytes < measured || g.spent <= 0 {
		return 0, 0
	}
	return float64(g.bytes) / g.spent.Seconds(), g.spent.Seconds() / time.Since(g.begun).Seconds()
}
