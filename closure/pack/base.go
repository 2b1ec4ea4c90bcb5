package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

const (
	// maxSmallBase is the largest base of a small path, in bytes: it is read whole for each of them.
	maxSmallBase = 16 << 20
	// nearReach and farReach are how far around its place in the base a segment is looked for, in bytes: where that place
	// is known by some of its bytes, and where it is only supposed. Most time and memory of a segment go into the index of that piece.
	nearReach = 4 << 20
	farReach  = 16 << 20
	// indexSize and cacheSize are those of the delta encoder, in bytes: for a segment and what lies around it.
	indexSize = 40 << 20
	cacheSize = SegmentSize + 2*farReach
	// minMatched gives a delta up when less than this part of a segment's first MiB is in the base.
	minMatched = 0.05
	// probes are compared to find out where a segment lies in the base, each of probeSize bytes.
	probes    = 32
	probeSize = 64
	// leastShare of them must be the same somewhere: less is chance, since NARs are full of zeros. Where knownShare is, the
	// place is known.
	leastShare = 0.125
	// hurriedSmall is the size of a small path from which it is looked at first whether a delta is worth its time, in bytes.
	hurriedSmall = 64 << 10
	// nearProbes pieces of nearSize bytes are looked for then, nearWindow around their places.
	nearProbes = 16
	nearSize   = 24
	nearWindow = 64 << 10
	knownShare = 0.4
)

// baseView is a base as its hashes are replaced. Closing it closes the view that it reads.
type baseView struct {
	*delta.View
	io.Closer
}

var errBase = errors.New("the base is not the one that it was")

// openBase opens the base of a path.
func openBase(views Views, e entry) (baseView, error) {
	view, err := views.Open(e.base)
	if err != nil {
		return baseView{}, fmt.Errorf("open the base %q: %w", e.base, err)
	}
	return e.see(view)
}

// see returns the base of a path as its hashes are replaced.
func (e entry) see(view View) (baseView, error) {
	pairs := make(map[string]string, len(e.refs))
	for _, p := range e.refs {
		pairs[p.from] = p.to
	}
	refs, err := delta.NewRefs(pairs)
	if err != nil {
		return baseView{}, errors.Join(err, view.Close())
	}
	if uint64(view.Size()) != e.baseSize {
		return baseView{}, errors.Join(fmt.Errorf("open the base %q: its NAR has %d bytes, not %d: %w", e.base, view.Size(), e.baseSize, errBase), view.Close())
	}
	return baseView{delta.NewView(view, refs), view}, nil
}

// base opens the base of a path, if there is one of a size up to limit that can be read.
func (p *Packer) base(e entry, limit uint64) *baseView {
	if e.base.IsZero() || e.baseSize > limit {
		return nil
	}
	view, err := openBase(p.views, e)
	if err != nil {
		return nil
	}
	return &view
}

// equal says whether nar is what the base has at off.
func (p *Packer) equal(base *baseView, nar []byte, off int64) bool {
	const piece = 256 << 10
	for part := range slices.Chunk(nar, piece) {
		p.old = slices.Grow(p.old[:0], len(part))[:len(part)]
		if n, _ := base.ReadAt(p.old, off); n < len(part) || !bytes.Equal(p.old, part) {
			return false
		}
		off += int64(len(part))
	}
	return true
}

func (p *Packer) encoder() (*delta.Encoder, bool) {
	if p.delta == nil {
		encoder, err := delta.NewEncoder(delta.Options{Level: delta.LevelNone, MinMatched: minMatched, IndexSize: indexSize, CacheSize: cacheSize})
		if err != nil {
			return nil, false
		}
		p.delta = encoder
	}
	return p.delta, true
}

// describe makes the delta of nar in p.made. It is expected to begin in the base at off. It says false where a delta
// does not pay.
func (p *Packer) describe(base delta.Base, nar []byte, off int64) (delta.Stats, bool) {
	encoder, ok := p.encoder()
	if !ok {
		return delta.Stats{}, false
	}
	p.made.Reset()
	stats, err := encoder.Encode(&p.made, delta.Input{Base: base, Target: bytes.NewReader(nar), Size: int64(len(nar)), At: off})
	return stats, err == nil
}

// piece describes the segment at off by the base, if that pays, and says which part of it is new then: all where it does not pay.
func (p *Packer) piece(e *entry, nar []byte, off int64) (fresh float64) {
	p.bodies = p.bodies[:0]
	base := p.base(*e, delta.MaxSize)
	if base == nil {
		return 1
	}
	defer base.Close()
	at, share := align(base, nar, off, int64(e.info.NarSize))
	if share == 1 && p.equal(base, nar, at) {
		e.body = bodySame
		p.bodies = binary.AppendUvarint(p.bodies, zigzag(at-off))
		return 0
	}
	if share < knownShare && p.hurried() && !p.isNear(base, nar, at) {
		return 1
	}
	from, size := around(at, share, base.Size())
	stats, ok := p.describe(io.NewSectionReader(base, from, size), nar, at-from)
	if !ok {
		return 1
	}
	return p.takePiece(e, stats, int64(len(nar)), from, size)
}

// takePiece takes the delta that was made of a segment against a piece of the base, if it pays, and says which part is new.
func (p *Packer) takePiece(e *entry, stats delta.Stats, nar, from, size int64) (fresh float64) {
	if stats.Literal*10 > nar*9 || int64(p.made.Len()) > nar {
		return 1
	}
	e.body = bodyDelta
	p.bodies = binary.AppendUvarint(p.bodies, uint64(from))
	p.bodies = binary.AppendUvarint(p.bodies, uint64(size))
	p.bodies = append(p.bodies, p.made.Bytes()...)
	return float64(stats.Literal) / float64(nar)
}

// hurried says that the level is one of fast links. There, a path that has little in common with its base, byte for byte, has arrived as it is before its delta is made.
func (p *Packer) hurried() bool { return p.compressor.level <= Default }

// isNear says whether half of some bytes of nar are in the base, not far from where they would be if nar was at off.
func (p *Packer) isNear(base *baseView, nar []byte, off int64) bool {
	looked, found := 0, 0
	for n := range nearProbes {
		at := n * max(0, len(nar)-nearSize) / (nearProbes - 1)
		part := nar[at:min(len(nar), at+nearSize)]
		if bytes.Count(part, part[:1]) > len(part)/2 {
			continue // zeros and the like are everywhere
		}
		from := max(0, off+int64(at)-nearWindow)
		p.old = slices.Grow(p.old[:0], 2*nearWindow)[:2*nearWindow]
		size, _ := base.ReadAt(p.old, from)
		looked++
		if bytes.Contains(p.old[:size], part) {
			found++
		}
	}
	return 2*found >= looked
}

// around returns the piece of a base of that size that is looked at for a segment which should be at off, and of which share was found
// there.
func around(off int64, share float64, size int64) (from, length int64) {
	reach := int64(farReach)
	if share >= knownShare {
		reach = nearReach
	}
	from = max(0, off-reach)
	return from, min(size, off+SegmentSize+reach) - from
}

// align finds where in the base the segment at off lies, by a few bytes of it: at the same offset, as far from the end, or
// where the ratio of the sizes puts it. It returns which part of these bytes are the same there.
func align(base *baseView, nar []byte, off, size int64) (at int64, share float64) {
	scaled := min(base.Size(), int64(float64(off)/float64(size)*float64(base.Size())))
	at = scaled
	for _, candidate := range []int64{off, off + base.Size() - size, scaled} {
		if same := probe(base, nar, candidate); same >= leastShare && same > share {
			at, share = candidate, same
		}
	}
	return at, share
}

// probe returns which part of the bytes that are looked at is the same in the base at off.
func probe(base *baseView, nar []byte, off int64) float64 {
	if off < 0 || off >= base.Size() {
		return 0
	}
	var old [probeSize]byte
	looked, same := 0, 0
	for n := range probes {
		at := n * max(0, len(nar)-probeSize) / (probes - 1)
		part := nar[at:min(len(nar), at+probeSize)]
		size, _ := base.ReadAt(old[:len(part)], off+int64(at))
		for i, c := range old[:size] {
			if part[i] == c {
				same++
			}
		}
		looked += len(part)
	}
	return float64(same) / float64(looked)
}

// writeFurther returns what a unit says of a segment that is not the first: which path, which segment, how.
func writeFurther(e entry, segment int) (raw, text []byte, err error) {
	raw, err = storepath.DecodeBase32(e.info.Path.Hash(), hashSize)
	if err != nil {
		return nil, nil, fmt.Errorf("pack: the hash part %q: %w", e.info.Path.Hash(), err)
	}
	return raw, append(binary.AppendUvarint(nil, uint64(segment)), byte(e.body)), nil
}
