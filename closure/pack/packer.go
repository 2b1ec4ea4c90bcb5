package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// Packer makes units. It keeps its buffers and must not be used concurrently: there is one for each worker.
//
// It holds up to 130 MiB, most of it what compares a segment with its base, and at the best level 110 MiB more: what it compresses with, and the encoder's tables.
type Packer struct {
	views      Views
	compressor compressor
	delta      *delta.Encoder
	// nar holds what a unit describes, bodies how, before what the unit before it describes; head and packed are its frames.
	nar, bodies, before, head, packed []byte
	// ground is what a unit is compressed with of bases.
	ground []byte
	// made is a delta, old a piece of a base.
	made bytes.Buffer
	old  []byte
}

// NewPacker returns a packer that reads paths through views.
func NewPacker(views Views) *Packer { return &Packer{views: views} }

// Close frees what the packer holds.
func (p *Packer) Close() {
	views := p.views
	p.compressor.close()
	*p = Packer{views: views}
}

const (
	// fewNew is the part of new bytes up to which a delta is sent whatever else there is.
	fewNew = 0.25
	// mostNew is that from which a delta is not looked at where its new bytes could be compressed with the base: it would be larger.
	mostNew = 0.5
	// fewCopied is the part of new bytes up to which copies that are known are used without a look at what the segment would be without them: each takes a few bytes.
	fewCopied = 0.75
)

// Pack makes the unit of a spec. Where a base does not help, or cannot be read any more, the unit does without it. The error is a
// [*ReadError] where a path cannot be read, and that of the context once it has ended.
func (p *Packer) Pack(ctx context.Context, spec Spec, level Level) (Unit, error) {
	if err := p.prepare(spec, level); err != nil {
		return Unit{}, err
	}
	if spec.segmented() {
		return p.segment(ctx, spec)
	}
	return p.batch(ctx, spec)
}

func (p *Packer) prepare(spec Spec, level Level) error {
	if level < Stored || level >= levels {
		return fmt.Errorf("pack: there is no %v", level)
	}
	if err := spec.check(); err != nil {
		return err
	}
	if past := spec.Past.spec(); len(past.Items) > 0 {
		if err := past.check(); err != nil {
			return err
		}
	}
	return p.compressor.use(level)
}

// check says whether a layout may have made a spec.
func (s Spec) check() error {
	switch {
	case len(s.Items) == 0 || len(s.Items) > maxBatch || s.Segment < 0:
		return fmt.Errorf("pack: a unit of %d paths and segment %d", len(s.Items), s.Segment)
	case s.segmented() && s.Segment >= segments(s.Items[0].Info.NarSize):
		return fmt.Errorf("pack: %q has no segment %d", s.Items[0].Info.Path, s.Segment)
	case !s.segmented() && (slices.ContainsFunc(s.Items, Item.large) || s.NAR() > maxBatchNAR || s.Segment != 0):
		return fmt.Errorf("pack: a batch of %d bytes, or with a path that is not small", s.NAR())
	}
	return nil
}

func (p *Packer) batch(ctx context.Context, spec Spec) (Unit, error) {
	unit := Unit{NAR: spec.NAR()}
	p.bodies, p.ground = p.bodies[:0], p.ground[:0]
	entries := make([]entry, 0, len(spec.Items))
	for _, item := range spec.Items {
		if err := ctx.Err(); err != nil {
			return Unit{}, context.Cause(ctx)
		}
		e := newEntry(item)
		begin := len(p.bodies)
		doubt, err := p.small(&e, item)
		if err != nil {
			return Unit{}, err
		}
		switch {
		case doubt && p.lay(e):
			e.body, p.bodies = bodyPlain, append(p.bodies[:begin], p.nar...)
			unit.Delta += e.info.NarSize
		case e.body != bodyPlain:
			unit.Delta += e.info.NarSize
		default:
			// A base that nothing comes from is not worth its hash.
			e.base, e.refs = storepath.Path{}, nil
		}
		entries = append(entries, e)
	}
	raw, text, err := writeHead(entries)
	if err != nil {
		return Unit{}, err
	}
	unit.Bytes, err = p.finish(spec, kindBatch, raw, text, 0)
	return unit, err
}

// lay puts the base of a small path on the ground of its unit, if it is worth it and there is room.
func (p *Packer) lay(e entry) bool {
	if !p.compressor.grounds(int(e.info.NarSize)) || len(p.ground)+int(e.baseSize) > maxGround {
		return false
	}
	base := p.base(e, maxSmallBase)
	if base == nil {
		return false
	}
	defer base.Close()
	begin := len(p.ground)
	p.ground = slices.Grow(p.ground, int(e.baseSize))[:begin+int(e.baseSize)]
	if readSame(*base, p.ground[begin:], 0) != nil {
		p.ground = p.ground[:begin]
		return false
	}
	return true
}

// small describes a small path, and says whether the base that we have might help in another way, too.
func (p *Packer) small(e *entry, item Item) (doubt bool, err error) {
	if item.Base.Path.IsZero() {
		p.bodies, err = p.read(p.bodies, item.Info, 0, item.Info.NarSize)
		return false, err
	}
	nar, err := p.read(p.nar[:0], item.Info, 0, item.Info.NarSize)
	if err != nil {
		return false, err
	}
	p.nar = nar
	if len(item.Copies) > 0 {
		if p.assembleSmall(e, item.copies(0, int64(len(nar))), nar) {
			return false, nil
		}
	} else if base := p.base(*e, maxSmallBase); base != nil {
		defer base.Close()
		if e.baseSize == e.info.NarSize && p.equal(base, nar, 0) {
			e.body = bodySame
			return false, nil
		}
		doubt = true
		if stats, ok := p.describeSmall(base, nar); ok && pays(stats, int64(len(nar))) {
			e.body = bodyDelta
			p.bodies = append(p.bodies, p.made.Bytes()...)
			return float64(stats.Literal) >= fewNew*float64(len(nar)), nil
		}
	}
	p.bodies = append(p.bodies, nar...)
	return doubt, nil
}

// describeSmall makes the delta of a small path, unless there is little hope and no time.
func (p *Packer) describeSmall(base *baseView, nar []byte) (delta.Stats, bool) {
	if p.hurried() && len(nar) > hurriedSmall {
		if at, share := align(base, nar, 0, int64(len(nar))); share < leastShare && !p.isNear(base, nar, at) {
			return delta.Stats{}, false
		}
	}
	return p.describe(base, nar, 0)
}

// pays says whether the delta of a small path is worth it. New bytes become shorter in it as they do without it; patches and
// instructions hardly become shorter at all, so they count three times.
func pays(stats delta.Stats, size int64) bool {
	return stats.Literal+3*(stats.Written-stats.Literal) < size
}

// read appends a piece of the NAR of a path.
func (p *Packer) read(data []byte, info storepath.Info, off, size uint64) ([]byte, error) {
	view, err := p.views.Open(info.Path)
	if err != nil {
		return nil, &ReadError{info.Path, err}
	}
	defer view.Close()
	if now := view.Size(); uint64(now) != info.NarSize {
		return nil, &ReadError{info.Path, fmt.Errorf("its NAR has %d bytes, not %d as the store says: it was changed", now, info.NarSize)}
	}
	have := len(data)
	data = slices.Grow(data, int(size))[:have+int(size)]
	if n, err := view.ReadAt(data[have:], int64(off)); n < int(size) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, &ReadError{info.Path, err}
	}
	return data, nil
}

// segment describes a segment of a large path. A delta of mostly new bytes competes with the segment as it is, compressed with the base where
// the level allows it.
func (p *Packer) segment(ctx context.Context, spec Spec) (Unit, error) {
	if err := ctx.Err(); err != nil {
		return Unit{}, context.Cause(ctx)
	}
	item := spec.Items[0]
	unit := Unit{NAR: spec.NAR()}
	off := uint64(spec.Segment) * SegmentSize
	nar, err := p.read(p.nar[:0], item.Info, off, unit.NAR)
	if err != nil {
		return Unit{}, err
	}
	p.nar, p.ground = nar, p.ground[:0]
	e := newEntry(item)
	var fresh float64
	enough, from := fewNew, int64(0)
	if len(item.Copies) > 0 {
		enough = fewCopied
		fresh = p.assemblePiece(&e, spec.copies(), nar, int64(off))
	} else if fresh = p.piece(&e, nar, int64(off)); fresh >= fewNew {
		from = p.layPiece(e, nar, int64(off))
	}
	if e.body != bodyPlain && (len(p.ground) == 0 || fresh < mostNew) {
		unit.Delta = unit.NAR
		ground := p.ground
		p.ground = nil
		unit.Bytes, err = p.finishSegment(spec, e, 0)
		if p.ground = ground; err != nil || fresh < enough {
			return unit, err
		}
	}
	e.body = bodyPlain
	p.bodies, p.nar = nar, p.bodies[:0]
	plain, err := p.finishSegment(spec, e, from)
	if unit.Bytes == nil || len(plain) <= len(unit.Bytes) {
		unit.Bytes, unit.Delta = plain, 0
		if len(p.ground) > 0 {
			unit.Delta = unit.NAR
		}
	}
	return unit, err
}

// layPiece makes the piece of the base around the segment at off the ground of its unit, if the level allows it, and returns where it begins.
func (p *Packer) layPiece(e entry, nar []byte, off int64) (from int64) {
	if !p.compressor.grounds(len(nar)) {
		return 0
	}
	base := p.base(e, delta.MaxSize)
	if base == nil {
		return 0
	}
	defer base.Close()
	at, _ := align(base, nar, off, int64(e.info.NarSize))
	from = max(0, min(at-(maxGround-int64(len(nar)))/2, base.Size()-maxGround))
	size := min(maxGround, base.Size()-from)
	p.ground = slices.Grow(p.ground, int(size))[:size]
	if readSame(*base, p.ground, from) != nil {
		p.ground = p.ground[:0]
	}
	return from
}

func (p *Packer) finishSegment(spec Spec, e entry, from int64) ([]byte, error) {
	kind := byte(kindFirst)
	raw, text, err := []byte(nil), []byte(nil), error(nil)
	if spec.Segment > 0 {
		kind = kindFurther
		raw, text, err = writeFurther(e, spec.Segment)
	} else {
		raw, text, err = writeHead([]entry{e})
	}
	if err != nil {
		return nil, err
	}
	return p.finish(spec, kind, raw, text, from)
}
