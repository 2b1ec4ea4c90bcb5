package duplicates

import (
	"maps"
	"slices"

	"fleet/closure/delta"
	"fleet/closure/pack"
	"fleet/closure/storepath"
)

const (
	// A base is named where at least minGain bytes of a path come from it, and a minShare-th part: below, what is said of it, what is kept, and the question whether the
	// receiver has it cost as much.
	minGain  = 256 << 10
	minShare = 20
	// maxBases is how many paths are considered for one file. Of what is everywhere, any will do.
	maxBases = 16
)

// Plan says what paths are made of. It is not changed after it was made.
type Plan struct {
	// Bases are the bases of paths, in terms of [pack.Item].
	Bases map[storepath.Path]Base
	// Kept are the paths of the push that the receiver has to keep for that, and KeptSize is the size of their NARs, in bytes.
	Kept     map[storepath.Path]bool
	KeptSize uint64
	// Moved are the bases that the receiver has to have, each once.
	Moved []storepath.Info
}

// Without is the plan without those of its Moved at some places, and what would be made of them.
func (p *Plan) Without(places []int) Plan {
	left := *p
	left.Bases = maps.Clone(p.Bases)
	maps.DeleteFunc(left.Bases, func(_ storepath.Path, base Base) bool {
		return slices.ContainsFunc(places, func(place int) bool { return p.Moved[place].Path == base.Info.Path })
	})
	return left
}

// Base is what a path has in common with another one, or with itself.
type Base struct {
	Info storepath.Info
	// Copies are in the order of the path, and do not overlap in it.
	Copies []delta.Copy
}

// gain is how many bytes come from the base.
func (b Base) gain() (size int64) {
	for _, c := range b.Copies {
		size += c.Size
	}
	return size
}

// chooser makes a plan. The first sent of paths are those that are sent.
type chooser struct {
	plan  *Plan
	paths []storepath.Info
	sent  int
	room  uint64
	// moved says which of the paths are in plan.Moved.
	moved map[int]bool
}

// choose gives each path the base from which most of it comes. Equal files are in one class.
func choose(paths []storepath.Info, sent int, classes []class, room uint64) *Plan {
	c := chooser{
		plan:  &Plan{Bases: make(map[storepath.Path]Base), Kept: make(map[storepath.Path]bool)},
		paths: paths, sent: sent, room: min(room, pack.MaxKept), moved: make(map[int]bool),
	}
	found := make([][]equal, sent)
	for _, members := range classes {
		origins := firsts(members, sent)
		for _, f := range members {
			if f.path < sent {
				found[f.path] = append(found[f.path], equal{f, origins})
			}
		}
	}
	for path, files := range found {
		c.path(path, files)
	}
	return c.plan
}

// equal is a file, and where there are others like it: the first one of each path, the receiver's paths first.
type equal struct {
	file
	origins []file
}

func firsts(members class, sent int) []file {
	var ours, theirs []file
	for i, f := range members {
		switch {
		case i > 0 && f.path == members[i-1].path:
		case f.path < sent:
			ours = append(ours, f)
		default:
			theirs = append(theirs, f)
		}
	}
	all := append(theirs, ours...)
	return all[:min(len(all), maxBases)]
}

// path chooses the base of a path.
func (c *chooser) path(path int, files []equal) {
	slices.SortFunc(files, func(a, b equal) int { return compareFiles(a.file, b.file) })
	best, at := Base{}, -1
	var order []int
	bases := make(map[int]Base)
	for _, f := range files {
		for _, from := range f.origins {
			if !follows(f.file, from, c.sent) {
				continue
			}
			base, known := bases[from.path]
			if !known {
				base.Info = c.paths[from.path]
				order = append(order, from.path)
			}
			base.Copies = append(base.Copies, delta.Copy{Target: f.at, Base: from.at, Size: f.size})
			bases[from.path] = base
		}
	}
	for _, from := range order {
		if base := bases[from]; base.gain() > best.gain() && c.possible(path, from, base) {
			best, at = base, from
		}
	}
	gain, size := best.gain(), int64(c.paths[path].NarSize)
	if at < 0 || gain < minGain || gain < size/minShare {
		return
	}
	c.take(path, at, best)
}

// follows says whether a file can be made of another one: that of a path which the receiver has or was sent before, or of the same path and far enough before it.
func follows(f, from file, sent int) bool {
	if f.path == from.path {
		return f.at-from.at >= pack.SelfDistance
	}
	return from.path >= sent || from.path < f.path
}

// possible says whether the receiver has the base, or can keep it.
func (c *chooser) possible(path, from int, base Base) bool {
	if from >= c.sent || c.plan.Kept[base.Info.Path] || from == path && !spans(base.Copies) {
		return true
	}
	return len(c.plan.Kept) < pack.MaxKeptPaths && base.Info.NarSize <= c.room-c.plan.KeptSize
}

// spans says whether some of the copies within a path are from an earlier segment than they are for.
func spans(copies []delta.Copy) bool {
	for _, copied := range copies {
		if last := copied.Target + copied.Size - 1; copied.Base < last-last%pack.SegmentSize {
			return true
		}
	}
	return false
}

// take notes the base of a path.
func (c *chooser) take(path, from int, base Base) {
	c.plan.Bases[c.paths[path].Path] = base
	switch {
	case from >= c.sent && !c.moved[from]:
		c.moved[from] = true
		c.plan.Moved = append(c.plan.Moved, base.Info)
	case from < c.sent && (from != path || spans(base.Copies)) && !c.plan.Kept[base.Info.Path]:
		c.plan.Kept[base.Info.Path] = true
		c.plan.KeptSize += base.Info.NarSize
	}
}
