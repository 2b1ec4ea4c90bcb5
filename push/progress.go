package push

import (
	"math"
	"sync"
	"time"

	"fleet/evaluator/plan"
)

// progressInterval is the least time between two progress events of one push.
const progressInterval = 100 * time.Millisecond

// progress counts what a transfer has moved and reports it. It is safe for concurrent use.
type progress struct {
	s    *Session
	step plan.Step
	// before is what the session had moved when it began.
	before uint64

	mu sync.Mutex
	// paths and bytes are what the host has acknowledged, total what there is to do in all, in bytes.
	paths, bytes, total uint64
	reported            time.Time
	dirty               bool
	// sent and done are the speeds of the wire and of what was acknowledged.
	sent, done speed
}

func newProgress(s *Session, step plan.Step) *progress {
	return &progress{s: s, step: step, before: s.wire.Load()}
}

// expect says what is left to do, which after a broken connection is less, and with nothing lost.
func (p *progress) expect(paths, bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total = p.bytes + bytes
	if paths > 0 {
		p.dirty = true
		p.report()
	}
}

// path counts one acknowledged path.
func (p *progress) path(bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paths++
	p.bytes += bytes
	p.dirty = true
	if time.Since(p.reported) >= progressInterval {
		p.report()
	}
}

// tick reports what has gone over the network, where nothing was reported for a while.
func (p *progress) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.reported) >= progressInterval {
		p.report()
	}
}

// flush reports what was not reported yet.
func (p *progress) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirty {
		p.report()
	}
}

// counts returns the paths and bytes that were moved so far.
func (p *progress) counts() (paths, bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paths, p.bytes
}

func (p *progress) report() {
	p.reported, p.dirty = time.Now(), false
	wire := p.wire()
	e := plan.Event{
		Host: p.s.spec.Target.Host, Step: p.step, Kind: plan.EventProgress,
		Done: p.bytes, Total: p.total, Unit: "bytes", WireBytes: wire, BytesPerSecond: uint64(p.sent.at(p.reported, wire)),
	}
	if rate := p.done.at(p.reported, p.bytes); rate > 0 && p.total > p.bytes {
		e.SecondsLeft = float64(p.total-p.bytes) / rate
	}
	p.s.c.emit(e)
}

// speed is how fast a count grows, smoothed: what was seen speedMemory ago counts for a third of what is seen now.
type speed struct {
	began, last time.Time
	count       uint64
	rate        float64
}

const (
	speedMemory = 3 * time.Second
	// speedAfter is how long has to be looked before there is something to say.
	speedAfter = time.Second
)

// at takes the count at a time, and returns the speed in units a second, 0 where that is not known yet.
func (s *speed) at(now time.Time, count uint64) float64 {
	if s.last.IsZero() {
		s.began, s.last, s.count = now, now, count
		return 0
	}
	passed := now.Sub(s.last)
	if passed <= 0 || count < s.count {
		return 0
	}
	// The first seconds are a plain average: there is nothing to smooth yet.
	weight := 1 - math.Exp(-passed.Seconds()/min(speedMemory, now.Sub(s.began)).Seconds())
	if s.last.Equal(s.began) {
		weight = 1
	}
	s.rate += weight * (float64(count-s.count)/passed.Seconds() - s.rate)
	s.last, s.count = now, count
	if now.Sub(s.began) < speedAfter {
		return 0
	}
	return s.rate
}

func (p *progress) wire() uint64 { return p.s.wire.Load() - p.before }
