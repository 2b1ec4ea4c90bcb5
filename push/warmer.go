package push

import (
	"sync"

	"fleet/closure"
	"fleet/closure/pack"
	"fleet/closure/storepath"
	"fleet/closure/warm"
)

// maxWarmed bounds the paths that are remembered as read ahead.
const maxWarmed = 200_000

// warmer reads paths of our store ahead of the workers, each once, however many hosts it is sent to. It is safe for concurrent use.
type warmer struct {
	// source is nil where that cannot be done.
	source closure.Warmer

	mu   sync.Mutex
	seen map[storepath.Path]bool
}

// item is a path that is read ahead.
func (w *warmer) item(info closure.PathInfo) warm.Item {
	return warm.Item{Size: min(info.NarSize, warm.MaxPath), Warm: func() {
		if w.source != nil && w.claim(info.Path) {
			w.source.Warm(info.Path, warm.MaxPath)
		}
	}}
}

// claim says whether nobody has read a path ahead yet.
func (w *warmer) claim(path storepath.Path) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil || len(w.seen) >= maxWarmed {
		w.seen = make(map[storepath.Path]bool)
	}
	first := !w.seen[path]
	w.seen[path] = true
	return first
}

// warmSurvey begins to read ahead what a host is asked for, while it answers. The caller closes the run.
func (w *workshop) warmSurvey(s *survey) *warm.Run {
	var items []warm.Item
	for _, info := range s.infos(s.paths) {
		items = append(items, w.warmer.item(info))
		if base, ok := s.predecessors[info.Path]; ok {
			items = append(items, w.warmer.item(base))
		}
	}
	return warm.Start(w.ctx, items)
}

// aheadRun reads ahead of an attempt.
type aheadRun struct {
	*warm.Run
	// starts are the items with which the units begin, of which the first is that of the number from.
	starts []int
	from   int
}

// warmUnits begins to read ahead what the units from a number on are made of. The caller closes the run.
func (w *workshop) warmUnits(specs []pack.Spec, from int) aheadRun {
	run := aheadRun{starts: make([]int, len(specs)-from), from: from}
	var items []warm.Item
	for i, spec := range specs[from:] {
		run.starts[i] = len(items)
		if spec.Segment > 0 {
			continue // it has been read with the first one, as far as that goes
		}
		for _, item := range spec.Items {
			items = append(items, w.warmer.item(item.Info))
			if !item.Base.Path.IsZero() {
				items = append(items, w.warmer.item(item.Base))
			}
		}
	}
	run.Run = warm.Start(w.ctx, items)
	return run
}

// unit says that a unit is being made.
func (r aheadRun) unit(n int) { r.Reached(r.starts[n-r.from]) }
