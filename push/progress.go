package push

import (
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
	p.s.c.emit(plan.Event{
		Host: p.s.spec.Target.Host, Step: p.step, Kind: plan.EventProgress,
		Done: p.bytes, Total: p.total, Unit: "bytes", WireBytes: p.wire(),
	})
}

func (p *progress) wire() uint64 { return p.s.wire.Load() - p.before }
