package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// Sink takes NARs one after the other, references first. Path returns once it has read nar to its end, or with an error. It
// verifies what it reads: nobody has before. Reading fails where the NAR cannot be completed. base is
// the path of the receiver's by which the NAR, or parts of it, were described, or the zero Path.
type Sink interface {
	Path(ctx context.Context, info storepath.Info, base storepath.Path, nar io.Reader) error
}

// Unpacker takes the units of one push in order. It must not be used concurrently.
//
// It holds at most 32 MiB beside the unit that it is given: what the unit's compressed parts hold, the NARs that come of it, what the delta decoder needs,
// and a table of the paths that came. What units say is to be kept lies in a spool, which has [MaxKept] bytes at most.
// A large path's [Sink.Path] runs in a goroutine of its own until its last segment, an error, or Close.
type Unpacker struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	views  Views
	sink   Sink
	zstd   *decompressor
	delta  *delta.Decoder
	// text is what a unit says of its paths, bodies what it says of their NARs, and nar what comes of that: all NARs of the unit, or the segment. It
	// is the past of the next one.
	text, bodies, nar []byte
	// seen has the paths that came, by a hash that nobody can foresee.
	seen  map[uint64]struct{}
	seed  maphash.Seed
	kept  keeper
	large *largePath
	err   error
}

var errClosed = errors.New("the push was given up")

// NewUnpacker returns an unpacker. ctx is that of the whole push. It calls spool once, when the first path comes that is to be kept; where there is none, or it
// fails, those paths alone fail that are made of such. The caller calls Close in any case.
func NewUnpacker(ctx context.Context, views Views, sink Sink, spool func() (Spool, error)) *Unpacker {
	if spool == nil {
		spool = func() (Spool, error) { return nil, errNoSpool }
	}
	u := &Unpacker{views: views, sink: sink, seen: make(map[uint64]struct{}), seed: maphash.MakeSeed(), kept: keeper{open: spool}}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	return u
}

// Unit takes the next unit, and returns when it was handed on. It keeps nothing of b. An error is a [*PathError] where it
// concerns one path, a [*FormatError] where the unit or its place are wrong, else the cause of the context's end. After an error nothing more is taken.
func (u *Unpacker) Unit(b []byte) error {
	if u.err != nil {
		return u.err
	}
	if u.err = context.Cause(u.ctx); u.err == nil {
		u.err = u.unit(b)
	}
	if u.err != nil {
		u.abandon(u.err)
	}
	return u.err
}

// End says that the last unit came. It returns after the last [Sink.Path]. A path that is not complete is an error.
func (u *Unpacker) End() error {
	if u.err == nil && u.large != nil {
		u.err = formatError("the push ends within %q, after %d of %d segments", u.large.info.Path, u.large.next, u.large.segments())
		u.abandon(u.err)
	}
	return u.err
}

// Close ends what is under way and frees what the unpacker holds. It waits for [Sink.Path], whose context ends. It may be called
// more than once.
func (u *Unpacker) Close() {
	if u.err == nil {
		u.err = errClosed
	}
	u.abandon(errClosed)
	u.cancel(errClosed)
	u.kept.close()
	if u.zstd != nil {
		u.zstd.close()
	}
	u.zstd, u.delta, u.text, u.bodies, u.nar, u.seen = nil, nil, nil, nil, nil, nil
}

// abandon ends a path that is not complete.
func (u *Unpacker) abandon(cause error) {
	if u.large != nil {
		u.large.fail(cause)
		u.large = nil
	}
}

func (u *Unpacker) prepare() (err error) {
	if u.zstd != nil {
		return nil
	}
	if u.delta, err = delta.NewDecoder(delta.Limits{}); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if u.zstd, err = newDecompressor(); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

func (u *Unpacker) unit(b []byte) error {
	if err := u.prepare(); err != nil {
		return err
	}
	p, err := split(b)
	if err != nil {
		return err
	}
	if u.text, err = u.zstd.decompress(p.head, nil, u.text, maxText); err != nil {
		return err
	}
	h, text, err := readHistory(u.text, p.kind)
	if err != nil {
		return err
	}
	if u.large != nil && p.kind != kindFurther {
		return formatError("another path begins within %q, after %d of %d segments", u.large.info.Path, u.large.next, u.large.segments())
	}
	c := closed{h, p.bodies}
	switch p.kind {
	case kindBatch:
		return u.batch(p.raw, text, c)
	case kindFirst:
		return u.first(p.raw, text, c)
	case kindFurther:
		return u.further(p.raw, text, c)
	}
	return formatError("a unit has the unknown kind %d", p.kind)
}

// closed are bodies that were not decompressed yet, and what they were compressed with.
type closed struct {
	history
	frame []byte
}

// open decompresses a unit's bodies. Where they were compressed with bases, read fills its argument with them. Then a base may be another than
// it was, which is the error of a path.
func (u *Unpacker) open(c closed, read func(ground []byte) error) error {
	if c.past > uint64(len(u.nar)) {
		return formatError("a unit was made with the last %d bytes of the %d before it", c.past, len(u.nar))
	}
	u.bodies = u.bodies[:0]
	with := u.nar[len(u.nar)-int(c.past):]
	if c.ground > 0 {
		if err := read(u.behind(with, int(c.ground))); err != nil {
			return err
		}
		with = u.nar
	}
	var err error
	if len(c.frame) > 0 {
		u.bodies, err = u.zstd.decompress(c.frame, with, u.bodies, maxBodies)
	}
	u.nar = u.nar[:0]
	if err != nil && c.ground > 0 {
		return fmt.Errorf("%w, or the unit: %v", errBase, err)
	}
	return err
}

// behind makes past the beginning of u.nar, and returns what lies behind it.
func (u *Unpacker) behind(past []byte, size int) []byte {
	all := u.nar[:0]
	if cap(all) < len(past)+size {
		all = make([]byte, 0, maxHistory)
	}
	u.nar = append(all, past...)[:len(past)+size]
	return u.nar[len(past):]
}

// grow makes room for the NARs of a unit. It does so for all there may be, but where there is little: the next unit may have more.
func (u *Unpacker) grow(size uint64) {
	const little = 1 << 20
	if size > little {
		size = SegmentSize
	}
	u.nar = slices.Grow(u.nar[:0], int(size))
}

// heads reads what a unit says of its paths.
func (u *Unpacker) heads(raw, text []byte) ([]entry, error) {
	entries, rest, err := readHead(raw, text)
	if err == nil {
		err = used(rest)
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		hash := maphash.String(u.seed, e.info.Path.Base())
		if _, twice := u.seen[hash]; twice {
			return nil, formatError("%q came before", e.info.Path)
		}
		if len(u.seen) == maxPaths {
			return nil, formatError("a push of more than %d paths", maxPaths)
		}
		u.seen[hash] = struct{}{}
		if !e.keep {
			continue
		}
		if err := u.kept.announce(e.info); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

func (u *Unpacker) batch(raw, text []byte, c closed) error {
	entries, err := u.heads(raw, text)
	if err != nil {
		return err
	}
	total := uint64(0)
	for _, e := range entries {
		if total += e.info.NarSize; e.info.NarSize > SmallNAR || total > maxBatchNAR {
			return formatError("%q, of %d bytes, is too large for a batch", e.info.Path, e.info.NarSize)
		}
	}
	if err := u.open(c, func(ground []byte) error { return u.lay(entries, ground) }); err != nil {
		var named *PathError
		if errors.Is(err, errBase) && !errors.As(err, &named) {
			// Of several bases it may be any: whoever sends the first one's path without it will hear of the next.
			return &PathError{entries[max(0, slices.IndexFunc(entries, entry.grounded))].info.Path, err}
		}
		return err
	}
	u.grow(total)
	rest := u.bodies
	for _, e := range entries {
		nar, left, err := u.small(e, rest)
		if err != nil {
			return err
		}
		rest = left
		u.kept.add(e.info.Path, nar)
		base := u.hostBase(e)
		if e.body == bodyPlain {
			base = storepath.Path{}
		}
		if err := u.sink.Path(u.ctx, e.info, base, bytes.NewReader(nar)); err != nil {
			return &PathError{e.info.Path, err}
		}
	}
	return used(rest)
}

func used(rest []byte) error {
	if len(rest) > 0 {
		return formatError("a unit has %d bytes that nothing uses", len(rest))
	}
	return nil
}

// lay fills the ground of a batch: the bases of the plain paths that name one.
func (u *Unpacker) lay(entries []entry, ground []byte) error {
	for _, e := range entries {
		if !e.grounded() {
			continue
		}
		if e.baseSize > uint64(len(ground)) {
			return formatError("a unit was made with less than the base of %q", e.info.Path)
		}
		base, err := u.openBase(e, 0)
		if err != nil {
			return &PathError{e.info.Path, err}
		}
		err = errors.Join(readSame(base, ground[:e.baseSize], 0), base.Close())
		if err != nil {
			return &PathError{e.info.Path, err}
		}
		ground = ground[e.baseSize:]
	}
	if len(ground) > 0 {
		return formatError("a unit was made with %d bytes more than its bases have", len(ground))
	}
	return nil
}

// small makes the NAR of a small path, behind those of the unit that are there, and returns what the unit has behind it.
func (u *Unpacker) small(e entry, rest []byte) (nar, left []byte, err error) {
	size := int(e.info.NarSize)
	if e.body == bodyPlain {
		if size > len(rest) {
			return nil, nil, formatError("a unit ends within %q", e.info.Path)
		}
		u.nar = append(u.nar, rest[:size]...)
		return rest[:size], rest[size:], nil
	}
	base, err := u.openBase(e, 0)
	if err != nil {
		return nil, nil, &PathError{e.info.Path, err}
	}
	defer base.Close()
	begin := len(u.nar)
	if e.body == bodySame {
		// It has come once it was read, which matters where the base is the path itself.
		nar = u.nar[begin : begin+size]
		err = readSame(base, nar, 0)
		u.nar = u.nar[:begin+size]
		return nar, rest, pathError(e.info.Path, err)
	}
	r := bytes.NewReader(rest)
	err = u.delta.Decode(made{u, io.Discard}, delta.Patch{Base: base, Delta: r, Size: int64(size)})
	return u.nar[begin:], rest[len(rest)-r.Len():], pathError(e.info.Path, err)
}

// made keeps what is written of a unit's NARs, and hands it on.
type made struct {
	unpacker *Unpacker
	next     io.Writer
}

func (m made) Write(data []byte) (int, error) {
	m.unpacker.nar = append(m.unpacker.nar, data...)
	return m.next.Write(data)
}

func pathError(path storepath.Path, err error) error {
	if err == nil {
		return nil
	}
	return &PathError{path, err}
}

// readSame fills data with what the base has at off.
func readSame(base baseView, data []byte, off int64) error {
	if off < 0 || off > base.Size()-int64(len(data)) {
		return fmt.Errorf("the base has %d bytes, the unit needs %d of them at %d: %w", base.Size(), len(data), off, errBase)
	}
	if n, err := base.ReadAt(data, off); n < len(data) {
		return fmt.Errorf("read the base: %w", err)
	}
	return nil
}
