package pack

import (
	"maps"
	"slices"
	"strings"

	"fleet/closure/storepath"
)

// hashSize is that of the hash part of a store path, in bytes.
const hashSize = 20

// entry is what a unit says of one path.
type entry struct {
	info storepath.Info
	// base is the zero Path where there is none.
	base     storepath.Path
	baseSize uint64
	// refs are pairs of hash parts, sorted by the first; equal ones are left out.
	refs []pair
	body int
	// keep says that later units may copy from it.
	keep bool
}

// grounded says whether the base is part of what the bodies of a batch were compressed with.
func (e entry) grounded() bool { return e.body == bodyPlain && !e.base.IsZero() }

// pair is a hash part in the base, and the one that the path has in its place.
type pair struct{ from, to string }

// Flags of an entry. The two lowest bits say how the NAR is described.
const (
	bodyBits      = 3
	hasBase       = 1 << 2
	listsPairs    = 1 << 3 // instead of those that follow from the tables
	hasDeriver    = 1 << 4
	hasSignatures = 1 << 5
	hasCA         = 1 << 6
	isKept        = 1 << 7
)

func newEntry(item Item) entry {
	e := entry{info: item.Info, base: item.Base.Path, baseSize: item.Base.NarSize, keep: item.Keep}
	if e.base.IsZero() {
		return e
	}
	for _, from := range slices.Sorted(maps.Keys(item.Refs)) {
		if to := item.Refs[from]; to != from {
			e.refs = append(e.refs, pair{from, to})
		}
	}
	return e
}

// implied returns the pairs that follow from the tables for the path at place i: its own predecessor, and those of its references,
// as far as they are known. It says false where two of them are the same.
func (t *tables) implied(i int, refs []int) ([]pair, bool) {
	var pairs []pair
	add := func(at int) {
		if from := t.before[at]; from != "" && from != t.hashes[at] {
			pairs = append(pairs, pair{from, t.hashes[at]})
		}
	}
	add(i)
	for _, at := range refs {
		if at != i {
			add(at)
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.from, b.from) })
	for k := 1; k < len(pairs); k++ {
		if pairs[k].from == pairs[k-1].from {
			return nil, false
		}
	}
	return pairs, true
}
