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
	// measured is how much is sent between two looks at the link, in bytes. Before the first one as much more is sent as buffers on the way may take without
	// waiting: windows of the stream and of SSH, and the kernel's.
	measured, buffered = 2 << 20, 8 << 20
	// Below slow bytes/s the best compression keeps up with the link. Above quick bytes/s little is done, and above quickest nothing, since the host takes it no
	// faster then, and has better to do than to unpack. In between there is one level: the next one is half as fast and sends 1 % less.
	slow, quick, quickest = 2e6, 30e6, 50e6
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
	return w.link.level
}

// gauge measures what it passes on, and says how hard to compress.
type gauge struct {
	w     io.Writer
	level pack.Level
	// bytes were written since it looked last, in the time spent.
	bytes int64
	spent time.Duration
}

func newGauge(w io.Writer) *gauge {
	// What buffers take is not measured.
	return &gauge{w: w, level: pack.Default, bytes: -buffered}
}

func (g *gauge) Write(p []byte) (int, error) {
	now := time.Now()
	n, err := g.w.Write(p)
	if g.bytes >= 0 {
		g.spent += time.Since(now)
	}
	g.bytes += int64(n)
	if g.bytes >= measured && g.spent > 0 {
		g.level = levelFor(float64(g.bytes) / g.spent.Seconds())
		g.bytes, g.spent = 0, 0
	}
	return n, err
}

// levelFor is the level for a link that takes rate bytes/s when it is written to.
func levelFor(rate float64) pack.Level {
	switch {
	case rate > quickest:
		return pack.None
	case rate > quick:
		return pack.Fastest
	case rate < slow:
		return pack.Best
	}
	return pack.Default
}
