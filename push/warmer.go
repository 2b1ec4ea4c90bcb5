package push

import (
	"sync"

	"fleet/closure"
	"fleet/closure/pack"
	"fleet/closure/storepath"
	"fleet/closure/warm"
)

const (
	// maxWarm is how much of one path is read ahead, in bytes: a large one is read in sequence, which the operating system sees.
	maxWarm = 8 << 20
	// maxWarmed bounds the paths that are remembered.
	maxWarmed = 200_000
)

// warmer reads paths of our store ahead of the workers, each once, however many hosts it is sent to. It is safe for concurrent use.
type warmer struct {
	// source is nil where that cannot be done.
	source closure.Warmer

	mu   sync.Mutex
	seen map[storepath.Path]bool
}

// warm begins to read ahead what specs are made of: an item of the run is a spec. The caller closes the run.
func (w *workshop) warm(specs []pack.Spec) *warm.Run {
	items := make([]warm.Item, len(specs))
	for i, spec := range specs {
		items[i] = warm.Item{Size: sizeToRead(spec), Warm: func() { w.warmer.warm(spec) }}
	}
	return warm.Start(w.ctx, items)
}

// sizeToRead is how much a spec is read ahead, in bytes.
func sizeToRead(spec pack.Spec) (size uint64) {
	if spec.Segment > 0 {
		return 0
	}
	for _, item := range spec.Items {
		size += min(item.Info.NarSize, maxWarm) + min(item.Base.NarSize, maxWarm)
	}
	return size
}

func (w *warmer) warm(spec pack.Spec) {
	if spec.Segment > 0 || w.source == nil {
		return
	}
	for _, item := range spec.Items {
		for _, path := range []storepath.Path{item.Info.Path, item.Base.Path} {
			if !path.IsZero() && w.claim(path) {
				w.source.Warm(path, maxWarm)
			}
		}
	}
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
