package pack

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"

	"fleet/closure/delta"
)

const (
	// leastBodies is how many bytes of bodies are worth a look at what came before, and pastPerByte how many bytes of that each of them is worth: most of the time
	// goes into the index of the past, whatever is compressed with it.
	leastBodies = 16 << 10
	// leastGround is the smallest path whose base is worth being named for that.
	leastGround = 4 << 10
	pastPerByte = 8
)

// compressor makes the frames of units. It keeps the encoders of the last level.
type compressor struct {
	level Level
	// alone makes heads, and bodies of levels that need no past; nil where nothing was compressed yet.
	alone *zstd.Encoder
	// with makes bodies with their past.
	with *pastCompressor
}

// use prepares for a level.
func (c *compressor) use(level Level) error {
	if level == c.level {
		return nil
	}
	*c = compressor{}
	if level == Stored {
		return nil
	}
	var err error
	// Heads are not worth the tables of the best level.
	if c.alone, err = newCompressor(min(level, Better)); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	c.level = level
	return nil
}

// head appends a frame of text.
func (c *compressor) head(frame, text []byte) []byte {
	if c.level == Stored {
		return appendStored(frame, text)
	}
	return c.alone.EncodeAll(text, frame)
}

// wants is how much of the past bodies of that size are compressed with, in bytes.
func (c *compressor) wants(bodies int) int {
	if bodies < leastBodies {
		return 0
	}
	return min(c.level.past(), bodies*pastPerByte)
}

// grounds says whether a path of that size, or a segment, is compressed with its base. Encoders with smaller tables forget what came before over it.
func (c *compressor) grounds(size int) bool { return c.level >= Best && size >= leastGround }

// bodies appends a frame of bodies, none where there are none.
func (c *compressor) bodies(frame, data, past []byte) ([]byte, error) {
	switch {
	case len(data) == 0:
		return frame, nil
	case c.level == Stored:
		return appendStored(frame, data), nil
	case len(past) == 0 && (c.level < Best || len(data) < leastBodies):
		return c.alone.EncodeAll(data, frame), nil
	}
	if c.with == nil {
		var err error
		if c.with, err = newPastCompressor(c.level); err != nil {
			return nil, fmt.Errorf("pack: %w", err)
		}
	}
	frame, err := c.with.compress(frame, data, past)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return frame, nil
}

// close frees what the encoders hold. There is nothing to flush: they only ever made whole frames.
func (c *compressor) close() {
	if c.alone != nil {
		_ = c.alone.Close()
	}
	*c = compressor{}
}

// history is what bodies were compressed with, as a unit states it: the last bytes of the NARs of the unit before, then bytes of bases.
type history struct {
	past, ground uint64
	// from is where in the base of a segment the ground begins. That of a batch are the bases of its plain paths that have one, one after the other.
	from uint64
}

func (h history) append(text []byte, kind byte) []byte {
	text = binary.AppendUvarint(binary.AppendUvarint(text, h.past), h.ground)
	if h.ground > 0 && kind != kindBatch {
		text = binary.AppendUvarint(text, h.from)
	}
	return text
}

// readHistory reads what append wrote, and returns the text behind it.
func readHistory(text []byte, kind byte) (h history, rest []byte, err error) {
	number := func(limit uint64) (value uint64) {
		value, n := binary.Uvarint(text)
		if n <= 0 || value > limit {
			err = formatError("a unit does not say with what it was made")
			return 0
		}
		text = text[n:]
		return value
	}
	h.past, h.ground = number(maxPast), number(maxGround)
	if h.ground > 0 && kind != kindBatch {
		h.from = number(delta.MaxSize)
	}
	return h, text, err
}

// finish makes a unit of what was described, with p.ground, which begins at from in the base of a segment.
func (p *Packer) finish(spec Spec, kind byte, raw, text []byte, from int64) ([]byte, error) {
	past, err := p.past(spec, p.compressor.wants(len(p.bodies)))
	if err != nil {
		return nil, err
	}
	h := history{uint64(len(past)), uint64(len(p.ground)), uint64(from)}
	p.head = p.compressor.head(p.head[:0], append(h.append(nil, kind), text...))
	p.before = append(past, p.ground...)
	if p.packed, err = p.compressor.bodies(p.packed[:0], p.bodies, p.before); err != nil {
		return nil, err
	}
	return parts{kind, raw, p.head, p.packed}.join(), nil
}

// past returns the last bytes of the NARs that the unit before describes, as many as are wanted and there are.
func (p *Packer) past(spec Spec, want int) ([]byte, error) {
	before := spec.Past.spec()
	total := before.NAR()
	size := min(uint64(want), total)
	p.before = p.before[:0]
	if size == 0 {
		return p.before, nil
	}
	p.before = slices.Grow(p.before, int(size)+len(p.ground))
	skip := total - size
	if before.segmented() {
		off := uint64(before.Segment)*SegmentSize + skip
		var err error
		p.before, err = p.read(p.before, before.Items[0].Info, off, size)
		return p.before, err
	}
	for _, item := range before.Items {
		nar := item.Info.NarSize
		if skip >= nar {
			skip -= nar
			continue
		}
		var err error
		if p.before, err = p.read(p.before, item.Info, skip, nar-skip); err != nil {
			return nil, err
		}
		skip = 0
	}
	return p.before, nil
}
