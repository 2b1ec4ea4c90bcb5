package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"fleet/closure/storepath"
)

// Spec says what a unit holds: several small paths, whole, or one segment of a large path, which is the only item then.
type Spec struct {
	Items []Item
	// Segment counts from 0. It is 0 for small paths.
	Segment int
	// Past is what the unit before describes. Nothing of its own past matters, so no unit depends on more than one other.
	Past Past
}

// Past is what the unit before another one describes: its paths, or a segment. The zero value is none: the unit is the first, or stands for itself.
type Past struct {
	Items   []Item
	Segment int
}

func (p Past) spec() Spec { return Spec{Items: p.Items, Segment: p.Segment} }

const (
	// batchTarget is the mean size of batches that are not cut for other reasons, in bytes of NARs: large enough that paths
	// compress as they do together, small enough that two hosts which miss almost the same share most units.
	batchTarget = 6 << 20
	// pathWeight is what a path counts beside its NAR, and baseWeight one with a base: making and taking a path takes time however small it is, and many tiny ones in one
	// unit would leave all other workers without work.
	pathWeight = 8 << 10
	baseWeight = 48 << 10
	// batchBased is how many paths with a base a batch has at most, for the same reason.
	batchBased = 256
)

// NAR returns how many bytes of NARs the unit describes.
func (s Spec) NAR() uint64 {
	if s.segmented() {
		size := s.Items[0].Info.NarSize
		return min(SegmentSize, size-min(size, uint64(s.Segment)*SegmentSize))
	}
	total := uint64(0)
	for _, item := range s.Items {
		total += item.Info.NarSize
	}
	return total
}

func (s Spec) segmented() bool { return len(s.Items) == 1 && s.Items[0].large() }

// segments returns how many units a large path has.
func segments(size uint64) int { return int((size + SegmentSize - 1) / SegmentSize) }

// Layout cuts a list of paths, references first, into units. What it returns is references first too, but not in the same
// order: small paths wait for each other as long as no large path refers to one of them, or has one as its base. Where a batch ends is chosen by
// the paths' hashes, so the batches of two lists that differ in some places are the same everywhere else.
func Layout(items []Item) []Spec {
	l := layout{pending: make(map[storepath.Path]bool)}
	for _, item := range items {
		if !item.large() {
			l.small(item)
			continue
		}
		// What it is made of has to come first, too.
		if l.pending[item.Base.Path] || slices.ContainsFunc(item.Info.References, func(ref storepath.Path) bool { return l.pending[ref] }) {
			l.cut()
		}
		for n := range segments(item.Info.NarSize) {
			l.specs = append(l.specs, Spec{Items: []Item{item}, Segment: n})
		}
	}
	l.cut()
	for n := 1; n < len(l.specs); n++ {
		l.specs[n].Past = Past{l.specs[n-1].Items, l.specs[n-1].Segment}
	}
	return l.specs
}

type layout struct {
	specs []Spec
	// batch are the small paths that wait, with pending by name.
	batch      []Item
	pending    map[storepath.Path]bool
	based      int
	nar, names uint64
}

func (l *layout) small(item Item) {
	// What the path may add to the names of a unit: itself, its base, its references and their predecessors.
	names := 2 + 2*uint64(len(item.Info.References)) + uint64(len(item.Refs)) + uint64(len(item.Info.Signatures))
	if len(l.batch) == maxBatch || l.based == batchBased || l.nar+item.Info.NarSize > maxBatchNAR || l.names+names > maxHashes/2 {
		l.cut()
	}
	l.batch = append(l.batch, item)
	l.pending[item.Info.Path] = true
	if !item.Base.Path.IsZero() {
		l.based++
	}
	l.nar += item.Info.NarSize
	l.names += names
	if last(item) {
		l.cut()
	}
}

func (l *layout) cut() {
	if len(l.batch) == 0 {
		return
	}
	l.specs = append(l.specs, Spec{Items: l.batch})
	l.batch, l.based, l.nar, l.names = nil, 0, 0, 0
	clear(l.pending)
}

// last says whether a batch ends after this path: with a probability that grows with its size, and by nothing but itself.
func last(item Item) bool {
	const bits = 32
	sum := sha256.Sum256([]byte(item.Info.Path.Base()))
	weight := uint64(pathWeight)
	if !item.Base.Path.IsZero() {
		weight = baseWeight
	}
	chance := (item.Info.NarSize + weight) << bits / batchTarget
	return uint64(binary.BigEndian.Uint32(sum[:])) < chance
}

// Keys identify the bytes of a unit, beside the level.
type Keys struct {
	// alone is for levels at which units stand for themselves, with for those at which they are made with their past.
	alone, with [sha256.Size]byte
}

// At is the key for a level: equal keys and levels, equal bytes.
func (k Keys) At(level Level) [sha256.Size]byte {
	if level.past() > 0 {
		return k.with
	}
	return k.alone
}

// Keys returns the spec's keys.
func (s Spec) Keys() Keys {
	alone := s.key()
	k := key{append([]byte("fleet past 1\n"), alone[:]...)}
	k.number(uint64(s.Past.Segment))
	k.number(uint64(len(s.Past.Items)))
	for _, item := range s.Past.Items {
		k.contents(item.Info)
	}
	return Keys{alone, sha256.Sum256(k.data)}
}

func (s Spec) key() [sha256.Size]byte {
	k := key{[]byte("fleet unit 3\n")}
	k.number(uint64(s.Segment))
	k.number(uint64(len(s.Items)))
	for _, item := range s.Items {
		k.info(item.Info)
		k.flag(item.Keep)
		k.contents(item.Base)
		k.number(uint64(len(item.Refs)))
		for _, from := range slices.Sorted(maps.Keys(item.Refs)) {
			k.text(from)
			k.text(item.Refs[from])
		}
		copies := item.Copies
		if s.segmented() {
			copies = s.copies()
		}
		// Beside those of this piece it matters whether there are any at all.
		k.number(uint64(min(1, len(item.Copies)) + len(copies)))
		for _, c := range copies {
			k.number(uint64(c.Target))
			k.number(uint64(c.Base))
			k.number(uint64(c.Size))
		}
	}
	return sha256.Sum256(k.data)
}

// key collects what is hashed, each text with its length.
type key struct {
	data []byte
}

func (k *key) number(n uint64) { k.data = binary.AppendUvarint(k.data, n) }

func (k *key) flag(is bool) {
	if is {
		k.number(1)
	} else {
		k.number(0)
	}
}

func (k *key) text(text string) {
	k.number(uint64(len(text)))
	k.data = append(k.data, text...)
}

// contents are what matters of a base.
func (k *key) contents(info storepath.Info) {
	k.text(info.Path.Base())
	k.data = append(k.data, info.NarHash[:]...)
	k.number(info.NarSize)
}

func (k *key) info(info storepath.Info) {
	k.contents(info)
	k.number(uint64(len(info.References)))
	for _, ref := range info.References {
		k.text(ref.Base())
	}
	k.text(info.Deriver.Base())
	k.number(uint64(len(info.Signatures)))
	for _, signature := range info.Signatures {
		k.text(signature)
	}
	k.text(info.CA)
}
