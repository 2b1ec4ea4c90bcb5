package pack

import (
	"encoding/binary"
	"slices"

	"fleet/closure/delta"
)

// within returns the copies of the piece of a path at off, with places in that piece.
func within(copies []delta.Copy, off, size int64) []delta.Copy {
	first, _ := slices.BinarySearchFunc(copies, off, func(c delta.Copy, off int64) int {
		if c.Target+c.Size <= off {
			return -1
		}
		return 1
	})
	var found []delta.Copy
	for _, c := range copies[first:] {
		if c.Target >= off+size {
			break
		}
		before, behind := max(0, off-c.Target), max(0, c.Target+c.Size-off-size)
		found = append(found, delta.Copy{Target: c.Target + before - off, Base: c.Base + before, Size: c.Size - before - behind})
	}
	return found
}

// copies returns those that make a piece of the path, with places in that piece.
func (i Item) copies(off, size int64) []delta.Copy {
	copies := within(i.Copies, off, size)
	if i.Base.Path != i.Info.Path {
		return copies
	}
	return slices.DeleteFunc(copies, func(c delta.Copy) bool {
		return off+c.Target-c.Base < SelfDistance || c.Base < off && !i.Keep
	})
}

// copies returns those of the spec's piece of a large path.
func (s Spec) copies() []delta.Copy {
	return s.Items[0].copies(int64(s.Segment)*SegmentSize, int64(s.NAR()))
}

// whole says whether one copy is all of a piece.
func whole(copies []delta.Copy, size int64) bool { return len(copies) == 1 && copies[0].Size == size }

// assembleSmall describes a small path by copies, if that pays.
func (p *Packer) assembleSmall(e *entry, copies []delta.Copy, nar []byte) bool {
	size := int64(len(nar))
	if whole(copies, size) && copies[0].Base == 0 && e.baseSize == e.info.NarSize {
		e.body = bodySame
		return true
	}
	stats, ok := p.assemble(int64(e.baseSize), nar, copies)
	if !ok || !pays(stats, size) {
		return false
	}
	e.body = bodyDelta
	p.bodies = append(p.bodies, p.made.Bytes()...)
	return true
}

// assemblePiece describes the segment at off by its copies, if that pays, and says which part of it is new then: all where it does not pay.
func (p *Packer) assemblePiece(e *entry, copies []delta.Copy, nar []byte, off int64) (fresh float64) {
	p.bodies = p.bodies[:0]
	size := int64(len(nar))
	switch {
	case len(copies) == 0:
		return 1
	case whole(copies, size):
		e.body = bodySame
		p.bodies = binary.AppendUvarint(p.bodies, zigzag(copies[0].Base-off))
		return 0
	}
	from, to := int64(e.baseSize), int64(0)
	for _, c := range copies {
		from, to = min(from, c.Base), max(to, c.Base+c.Size)
	}
	moved := slices.Clone(copies)
	for i := range moved {
		moved[i].Base -= from
	}
	stats, ok := p.assemble(to-from, nar, moved)
	if !ok {
		return 1
	}
	return p.takePiece(e, stats, size, from, to-from)
}

// assemble makes the delta of nar in p.made. It says false where there is none.
func (p *Packer) assemble(base int64, nar []byte, copies []delta.Copy) (delta.Stats, bool) {
	encoder, ok := p.encoder()
	if !ok {
		return delta.Stats{}, false
	}
	p.made.Reset()
	stats, err := encoder.Assemble(&p.made, base, nar, copies)
	return stats, err == nil
}
