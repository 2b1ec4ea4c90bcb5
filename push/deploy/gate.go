package deploy

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// gate holds hosts before their activation until it is known which of them change, asks once, and lets all go or none.
// It is the only barrier of a run, and exists only where somebody is asked.
type gate struct {
	ask func(context.Context, []Change) (bool, error)

	mu sync.Mutex
	// expected is how many hosts have neither arrived nor left.
	expected int
	changes  []Change
	// settled is closed when expected is 0; answered once verdict is set.
	settled  chan struct{}
	answered chan struct{}
	asking   bool
	verdict  error
}

func newGate(expected int, ask func(context.Context, []Change) (bool, error)) *gate {
	return &gate{ask: ask, expected: expected, settled: make(chan struct{}), answered: make(chan struct{})}
}

// pass waits until the change may happen; the error is why not.
func (g *gate) pass(ctx context.Context, change Change) error {
	g.mu.Lock()
	g.changes = append(g.changes, change)
	g.mu.Unlock()
	g.leave()
	select {
	case <-g.settled:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	g.mu.Lock()
	first := !g.asking
	g.asking = true
	g.mu.Unlock()
	if first {
		g.answer(ctx)
	}
	<-g.answered
	return g.verdict
}

// leave says that a host will not arrive any more.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expected--
	if g.expected == 0 {
		close(g.settled)
	}
}

func (g *gate) answer(ctx context.Context) {
	defer close(g.answered)
	if len(g.changes) < 2 {
		return
	}
	slices.SortFunc(g.changes, func(a, b Change) int { return cmp.Compare(a.Host, b.Host) })
	yes, err := g.ask(ctx, g.changes)
	switch {
	case ctx.Err() != nil:
		g.verdict = context.Cause(ctx)
	case err != nil:
		g.verdict = err
	case !yes:
		g.verdict = errDeclined
	}
}
