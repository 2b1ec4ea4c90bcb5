package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
)

// view is a base seen through a reference map.
type view struct {
	base Base
	size int64
	refs *Refs
	raw  []byte
}

func (v *view) reset(base Base, refs *Refs) {
	v.base, v.size, v.refs = base, base.Size(), refs
}

// read fills data with the view's bytes at off. They must lie inside of it.
func (v *view) read(data []byte, off int64) error {
	if v.refs.Len() == 0 {
		return v.readBase(data, off)
	}
	from := max(0, off-(HashLength-1))
	to := min(v.size, off+int64(len(data))+HashLength-1)
	v.raw = slices.Grow(v.raw[:0], int(to-from))[:to-from]
	if err := v.readBase(v.raw, from); err != nil {
		return err
	}
	lead := int(off - from)
	copy(data, v.raw[lead:])
	v.refs.replace(data, v.raw, lead)
	return nil
}

func (v *view) readBase(data []byte, off int64) error {
	n, err := v.base.ReadAt(data, off)
	if n == len(data) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("delta: read %d bytes of the base at %d: %w", len(data), off, err)
}

const (
	// minWindow is read after a seek: one page, so that a delta of nothing but seeks cannot make the decoder read
	// thousands of bytes for each of its own. It doubles up to maxWindow where reading goes on in sequence.
	minWindow = 4 << 10
	maxWindow = 64 << 10
)

// window reads a view for the decoder: the piece that was read last is kept.
type window struct {
	view
	data []byte
	off  int64
	next int
}

func (w *window) reset(base Base, refs *Refs) {
	w.view.reset(base, refs)
	w.data, w.off, w.next = slices.Grow(w.data[:0], maxWindow), 0, minWindow
}

// at returns bytes of the view at off: at least one, n at most. Both must lie inside of it. They are valid until the
// next call.
func (w *window) at(off int64, n int) ([]byte, error) {
	if off < w.off || off >= w.off+int64(len(w.data)) {
		if err := w.load(off, n); err != nil {
			return nil, err
		}
	}
	data := w.data[off-w.off:]
	return data[:min(n, len(data))], nil
}

func (w *window) load(off int64, n int) error {
	if len(w.data) > 0 && off == w.off+int64(len(w.data)) {
		w.next = min(2*w.next, maxWindow)
	} else {
		w.next = min(max(minWindow, n), maxWindow)
	}
	size := int(min(int64(w.next), w.size-off))
	w.data, w.off = w.data[:size], off
	if err := w.read(w.data, off); err != nil {
		w.data = w.data[:0]
		return err
	}
	return nil
}

const (
	// pageSize is the piece of the base that an encoder keeps: large enough that a comparison seldom
	// crosses an edge, small enough that distant matches do not read megabytes.
	pageSize = 64 << 10
	// minPages is the least number of pages that are kept.
	minPages = 16
)

// pages reads a view for the encoder. It keeps the pages that were used lately, up to a limit.
type pages struct {
	view
	limit int
	// held has an entry for each page of the view: its slot plus one, or 0.
	held  []int32
	slots []slot
	hand  int
	err   error
}

type slot struct {
	page int
	used bool
	data []byte
}

func (p *pages) reset(base Base, refs *Refs) {
	p.view.reset(base, refs)
	count := int((p.size + pageSize - 1) / pageSize)
	p.held = slices.Grow(p.held[:0], count)[:count]
	clear(p.held)
	// Buffers of an earlier base are used again.
	for i := range p.slots {
		p.slots[i].page, p.slots[i].used = -1, false
	}
	p.hand, p.err = 0, nil
}

// page returns page number n, valid until the next call. After an error, which is kept in p.err, it returns nothing.
func (p *pages) page(n int) []byte {
	if at := p.held[n]; at > 0 {
		s := &p.slots[at-1]
		s.used = true
		return s.data
	}
	if p.err != nil {
		return nil
	}
	at := p.free()
	s := &p.slots[at]
	off := int64(n) * pageSize
	s.data = s.data[:min(pageSize, p.size-off)]
	if p.err = p.read(s.data, off); p.err != nil {
		s.page = -1
		return nil
	}
	s.page, s.used = n, true
	p.held[n] = int32(at + 1)
	return s.data
}

// free returns a slot that holds no page: a new one as long as the limit allows, else one that was not used
// since the hand came by.
func (p *pages) free() int {
	if p.hand < len(p.slots) && p.slots[p.hand].page < 0 {
		p.hand++
		return p.hand - 1
	}
	if len(p.slots) < max(p.limit, minPages) {
		p.slots = append(p.slots, slot{page: -1, data: make([]byte, pageSize)})
		p.hand = len(p.slots)
		return len(p.slots) - 1
	}
	for {
		if p.hand >= len(p.slots) {
			p.hand = 0
		}
		s := &p.slots[p.hand]
		p.hand++
		if s.used && s.page >= 0 {
			s.used = false
			continue
		}
		if s.page >= 0 {
			p.held[s.page] = 0
			s.page = -1
		}
		return p.hand - 1
	}
}

// at returns the rest of the page that holds off, nothing where off lies outside of the view.
func (p *pages) at(off int64) []byte {
	if off < 0 || off >= p.size {
		return nil
	}
	page := p.page(int(off / pageSize))
	return page[min(int(off%pageSize), len(page)):]
}

// copy fills data with the view's bytes at off, and returns how many of them the view has.
func (p *pages) copy(data []byte, off int64) int {
	n := 0
	for n < len(data) {
		piece := p.at(off + int64(n))
		if len(piece) == 0 {
			break
		}
		n += copy(data[n:], piece)
	}
	return n
}

// match returns how many bytes data and the view at off have in common at their beginnings.
func (p *pages) match(data []byte, off int64) int {
	n := 0
	for n < len(data) {
		piece := p.at(off + int64(n))
		size := min(len(piece), len(data)-n)
		same := common(data[n:n+size], piece[:size])
		n += same
		if same < size || size == 0 {
			break
		}
	}
	return n
}

// equal returns how many bytes of data are those of the view at off.
func (p *pages) equal(data []byte, off int64) int {
	count, n := 0, 0
	for n < len(data) {
		piece := p.at(off + int64(n))
		size := min(len(piece), len(data)-n)
		if size == 0 {
			break
		}
		for i, c := range piece[:size] {
			if data[n+i] == c {
				count++
			}
		}
		n += size
	}
	return count
}

// common returns the length of the common beginning of a and b, which are equally long.
func common(a, b []byte) int {
	n := 0
	for len(a)-n >= 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}
