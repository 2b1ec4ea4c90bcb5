package pack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// copySame hands on what the base has at off, and keeps it.
func (u *Unpacker) copySame(dst io.Writer, base baseView, off, size int64) error {
	const piece = 64 << 10
	for part := range slices.Chunk(u.nar[:size], piece) {
		if err := readSame(base, part, off); err != nil {
			return err
		}
		u.nar = u.nar[:len(u.nar)+len(part)]
		if _, err := dst.Write(part); err != nil {
			return err
		}
		off += int64(len(part))
	}
	return nil
}

// first begins a large path.
func (u *Unpacker) first(raw, text []byte, c closed) error {
	entries, err := u.heads(raw, text)
	if err != nil {
		return err
	}
	if len(entries) != 1 || entries[0].info.NarSize <= SmallNAR {
		return formatError("%d paths, the first of %d bytes, come as segments", len(entries), entries[0].info.NarSize)
	}
	u.large = u.start(entries[0])
	return u.segment(entries[0].body, c)
}

// further continues a large path.
func (u *Unpacker) further(raw, text []byte, c closed) error {
	number, n := binary.Uvarint(text)
	if n <= 0 || n+1 != len(text) || len(raw) != hashSize {
		return formatError("a segment does not say which one it is")
	}
	if u.large == nil {
		return formatError("segment %d of %q comes without its first", number, storepath.EncodeBase32(raw))
	}
	if hash := storepath.EncodeBase32(raw); hash != u.large.info.Path.Hash() || number != uint64(u.large.next) {
		return formatError("segment %d of %q came instead of segment %d of %q", number, hash, u.large.next, u.large.info.Path.Hash())
	}
	body := int(text[n])
	if body > bodyDelta || body != bodyPlain && u.large.base.IsZero() {
		return formatError("segment %d of %q is described in a way that does not exist", number, u.large.info.Path)
	}
	return u.segment(body, c)
}

// segment makes the next segment of the large path.
func (u *Unpacker) segment(body int, c closed) error {
	l := u.large
	err := u.open(c, func(ground []byte) error { return l.lay(u, ground, c.from) })
	if err == nil {
		err = u.write(l, body, u.bodies)
	}
	if err == nil {
		u.kept.add(l.info.Path, u.nar)
		if l.next++; l.next < l.segments() {
			return nil
		}
		u.large = nil
		return l.end()
	}
	u.large = nil
	return l.fail(err)
}

func (u *Unpacker) write(l *largePath, body int, rest []byte) error {
	off := int64(l.next) * SegmentSize
	size := min(SegmentSize, int64(l.info.NarSize)-off)
	u.grow(uint64(size))
	out := made{u, l}
	if body == bodyPlain {
		if int64(len(rest)) != size {
			return formatError("a segment of %q has %d bytes, not %d", l.info.Path, len(rest), size)
		}
		_, err := out.Write(rest)
		return err
	}
	base, err := l.openBase(u)
	if err != nil {
		return err
	}
	if body == bodySame {
		shift, n := binary.Uvarint(rest)
		if n <= 0 || n < len(rest) || shift > 2*delta.MaxSize {
			return formatError("a segment of %q does not say where it is in the base", l.info.Path)
		}
		return u.copySame(l, base, off+unzigzag(shift), size)
	}
	from, n := binary.Uvarint(rest)
	length, m := binary.Uvarint(rest[max(0, n):])
	if n <= 0 || m <= 0 || from > l.baseSize || length > l.baseSize-from {
		return formatError("a segment of %q does not say where it is in the base", l.info.Path)
	}
	r := bytes.NewReader(rest[n+m:])
	piece := io.NewSectionReader(base, int64(from), int64(length))
	if err := u.delta.Decode(out, delta.Patch{Base: piece, Delta: r, Size: size}); err != nil {
		return err
	}
	return used(rest[len(rest)-r.Len():])
}

// largePath is a path that comes in segments.
type largePath struct {
	entry
	next   int
	writer *io.PipeWriter
	// done gets what the sink said.
	done chan error
	// stop ends the watch over the context.
	stop func() bool
	view *baseView
	// broken says that the sink takes no more.
	broken bool
}

var errUnread = errors.New("its NAR was not read to the end")

// start hands a large path to the sink.
func (u *Unpacker) start(e entry) *largePath {
	reader, writer := io.Pipe()
	l := &largePath{entry: e, writer: writer, done: make(chan error, 1)}
	l.stop = context.AfterFunc(u.ctx, func() {
		cause := context.Cause(u.ctx)
		_ = writer.CloseWithError(cause)
		_ = reader.CloseWithError(cause)
	})
	base := u.hostBase(e)
	go func() {
		err := u.sink.Path(u.ctx, e.info, base, reader)
		_ = reader.CloseWithError(errUnread)
		l.done <- err
	}()
	return l
}

func (l *largePath) segments() int { return segments(l.info.NarSize) }

// openBase opens the base for a segment. It stays open for the next ones, but where it is the path itself, of which more has come by then.
func (l *largePath) openBase(u *Unpacker) (baseView, error) {
	if l.base == l.info.Path {
		return u.openBase(l.entry, int64(l.next)*SegmentSize)
	}
	if l.view == nil {
		view, err := u.openBase(l.entry, 0)
		if err != nil {
			return baseView{}, err
		}
		l.view = &view
	}
	return *l.view, nil
}

// lay fills the ground of a segment with a piece of the base.
func (l *largePath) lay(u *Unpacker, ground []byte, from uint64) error {
	if l.base.IsZero() {
		return formatError("a segment of %q was made with a base, and has none", l.info.Path)
	}
	base, err := l.openBase(u)
	if err != nil {
		return err
	}
	return readSame(base, ground, int64(from))
}

// Write hands bytes to the sink.
func (l *largePath) Write(data []byte) (int, error) {
	if len(data) == 0 {
		// A pipe would wait for somebody who reads nothing.
		return 0, nil
	}
	n, err := l.writer.Write(data)
	l.broken = l.broken || err != nil
	return n, err
}

// end waits for the sink, after the last byte.
func (l *largePath) end() error {
	_ = l.writer.Close()
	if err := l.wait(); err != nil {
		return &PathError{l.info.Path, err}
	}
	return nil
}

// fail ends the path, and returns its error: that of the sink where the sink was the first to fail.
func (l *largePath) fail(cause error) error {
	_ = l.writer.CloseWithError(cause)
	said := l.wait()
	if l.broken && said != nil {
		cause = said
	}
	if format := (*FormatError)(nil); errors.As(cause, &format) {
		return cause
	}
	return &PathError{l.info.Path, cause}
}

func (l *largePath) wait() error {
	err := <-l.done
	l.stop()
	if l.view != nil {
		_ = l.view.Close()
	}
	return err
}
