package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// outputSize is the piece in which a decoder writes, in bytes.
const outputSize = 64 << 10

// Limits are what a decoder allows. The zero value means the defaults.
type Limits struct {
	// MaxBlock bounds the block size of deltas, in bytes; 0 is [DefaultBlockSize].
	MaxBlock int
}

// Patch is what a target is made from.
type Patch struct {
	Base Base
	// Refs are the hashes that are replaced in the base: those that the delta was made with.
	Refs *Refs
	// Delta is read to the delta's end and not beyond. It is asked for a few bytes at a time at the beginning of each block.
	Delta io.Reader
	// Size is that of the target: where the delta says anything else, nothing is written.
	Size int64
}

// Decoder makes targets from bases and deltas, one after the other, and keeps its buffers. It must not be used concurrently.
//
// It holds at most 2.5 times the block size of its limits and 512 KiB, whatever the sizes of the files are: the streams of one
// block, the longest of them also in compressed form, and pieces of 64 KiB of base and output.
type Decoder struct {
	maxBlock int
	zstd     *zstd.Decoder
	base     window
	packed   []byte
	// arena holds the streams of a block one after the other, so that they never take more than a block's size together.
	arena   []byte
	streams [streams][]byte
	// gap is how many bytes are copied before the next patch, -1 where there is none.
	gap int
	out output
}

// NewDecoder returns a decoder, or an error where the limits make no sense.
func NewDecoder(limits Limits) (*Decoder, error) {
	if limits.MaxBlock == 0 {
		limits.MaxBlock = DefaultBlockSize
	}
	if limits.MaxBlock < MinBlockSize || limits.MaxBlock > MaxBlockSize {
		return nil, fmt.Errorf("delta: a limit of %d for blocks, not between %d and %d", limits.MaxBlock, MinBlockSize, MaxBlockSize)
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBlockSize),
		zstd.WithDecoderMaxWindow(MaxBlockSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("delta: %w", err)
	}
	return &Decoder{maxBlock: limits.MaxBlock, zstd: z}, nil
}

// Decode writes what the delta makes of the base.
func Decode(dst io.Writer, patch Patch, limits Limits) error {
	d, err := NewDecoder(limits)
	if err != nil {
		return err
	}
	return d.Decode(dst, patch)
}

// Decode writes what the delta makes of the base: exactly Size bytes, or an error is returned. What has been written
// before an error is wrong or incomplete, a block or less of it unchecked. Without an error, the result still has to be
// verified by a hash that the delta's sender does not choose.
func (d *Decoder) Decode(dst io.Writer, patch Patch) error {
	blockSize, err := d.header(patch)
	if err != nil {
		return err
	}
	d.base.reset(patch.Base, patch.Refs)
	d.out.reset(dst, patch.Size)
	pos := int64(0)
	for {
		more, err := d.block(patch.Delta, blockSize)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if pos, err = d.run(pos); err != nil {
			return err
		}
		if err := d.out.end(); err != nil {
			return err
		}
	}
	if d.out.left != 0 {
		return formatError("it ends %d bytes before the target does", d.out.left)
	}
	return nil
}

func formatError(format string, args ...any) error {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}

// header reads the header of a delta, and returns its block size.
func (d *Decoder) header(patch Patch) (int, error) {
	var magic [len(Magic)]byte
	if err := readFull(patch.Delta, magic[:]); err != nil {
		return 0, err
	}
	if string(magic[:]) != Magic {
		return 0, formatError("it does not begin with %q", Magic)
	}
	h, err := readFields(patch.Delta, maxHeader)
	if err != nil {
		return 0, err
	}
	if version := h.byte(); version != Version {
		return 0, formatError("it has version %d, not %d", version, Version)
	}
	flags := h.byte()
	base, size, block := h.number(MaxSize), h.number(MaxSize), h.number(MaxBlockSize)
	var id [8]byte
	if flags&flagRefs != 0 {
		copy(id[:], h.take(len(id)))
	}
	if h.bad || len(h.rest) != 0 || flags&^flagRefs != 0 || block < MinBlockSize {
		return 0, formatError("its header is not one")
	}
	switch have := patch.Base.Size(); {
	case base != have:
		return 0, fmt.Errorf("delta: it was made for a base of %d bytes, this one has %d: %w", base, have, ErrMismatch)
	case size != patch.Size:
		return 0, fmt.Errorf("delta: it makes %d bytes, not %d: %w", size, patch.Size, ErrMismatch)
	case (flags&flagRefs != 0) != (patch.Refs.Len() > 0) || patch.Refs.Len() > 0 && id != patch.Refs.id:
		return 0, fmt.Errorf("delta: it was made with another reference map: %w", ErrMismatch)
	case block > int64(d.maxBlock):
		return 0, fmt.Errorf("delta: its blocks have up to %d bytes, more than %d: %w", block, d.maxBlock, ErrLimit)
	}
	return int(block), nil
}

// block reads the next block. It says false at the end of the delta.
func (d *Decoder) block(r io.Reader, limit int) (bool, error) {
	h, err := readFields(r, maxBlockHeader)
	if err != nil || len(h.rest) == 0 {
		return false, err
	}
	output := h.number(MaxBlockOutput)
	var sizes, packed [streams]int
	total := 0
	for i := range sizes {
		sizes[i], packed[i] = int(h.number(MaxBlockSize)), int(h.number(MaxBlockSize))
		total += sizes[i]
		h.bad = h.bad || packed[i] > 0 && packed[i] >= sizes[i]
	}
	sum := h.take(4)
	switch {
	case h.bad || len(h.rest) != 0 || output == 0:
		return false, formatError("the header of a block is not one")
	case total > limit:
		return false, formatError("a block has %d bytes, more than the %d that were announced", total, limit)
	case output > d.out.left:
		return false, formatError("it makes more bytes than the target has")
	}
	d.arena = grow(d.arena, total)
	rest := d.arena
	for i, size := range sizes {
		if d.streams[i], rest = rest[:size:size], rest[size:]; size > 0 {
			if err := d.stream(r, d.streams[i], packed[i]); err != nil {
				return false, err
			}
		}
	}
	d.out.begin(int(output), binary.LittleEndian.Uint32(sum))
	return true, nil
}

// stream reads one stream of a block into data. packed is its size in compressed form, 0 where it is not compressed.
func (d *Decoder) stream(r io.Reader, data []byte, packed int) error {
	if packed == 0 {
		return readFull(r, data)
	}
	d.packed = grow(d.packed, packed)
	if err := readFull(r, d.packed); err != nil {
		return err
	}
	got, err := d.zstd.DecodeAll(d.packed, data[:0])
	if err != nil {
		return formatError("a stream cannot be decompressed: %v", err)
	}
	if len(got) != len(data) {
		return formatError("a stream has %d bytes, not %d", len(got), len(data))
	}
	return nil
}

// run carries out the instructions of a block. The position in the base goes on from block to block.
func (d *Decoder) run(pos int64) (int64, error) {
	if err := d.nextGap(); err != nil {
		return 0, err
	}
	control := d.streams[streamControl]
	for len(control) > 0 {
		token, n := binary.Uvarint(control)
		if n <= 0 || n > maxToken || token>>2 == 0 {
			return 0, formatError("an instruction is not one")
		}
		control = control[n:]
		kind, length := token&3, token>>2
		if kind == kindSeek {
			if pos += unzigzag(length); pos < 0 || pos > MaxSize {
				return 0, formatError("a seek leaves the base")
			}
			continue
		}
		if length > uint64(d.out.block) {
			return 0, formatError("a block makes more bytes than it says")
		}
		if err := d.instruction(kind, pos, int(length)); err != nil {
			return 0, err
		}
		pos += int64(length)
	}
	if d.gap >= 0 || len(d.streams[streamValues])+len(d.streams[streamLiterals]) != 0 {
		return 0, formatError("a block has bytes that no instruction uses")
	}
	return pos, nil
}

// instruction makes size bytes of the target.
func (d *Decoder) instruction(kind uint64, pos int64, size int) error {
	switch kind {
	case kindCopy:
		if pos > d.base.size-int64(size) {
			return formatError("it needs %d bytes of the base at %d, which has %d", size, pos, d.base.size)
		}
		return d.copy(pos, size)
	case kindLiteral:
		literals := d.streams[streamLiterals]
		if size > len(literals) {
			return formatError("the literals of a block are too short")
		}
		d.streams[streamLiterals] = literals[size:]
		return d.out.write(literals[:size])
	}
	return formatError("an instruction has an unknown kind")
}

// copy writes size bytes of the base at pos, with the patches that fall among them.
func (d *Decoder) copy(pos int64, size int) error {
	for size > 0 {
		old, err := d.base.at(pos, size)
		if err != nil {
			return err
		}
		pos, size = pos+int64(len(old)), size-len(old)
		for len(old) > 0 {
			room, err := d.out.room(len(old))
			if err != nil {
				return err
			}
			old = old[copy(room, old):]
			if err := d.patch(room); err != nil {
				return err
			}
		}
	}
	return nil
}

// patch changes the bytes of copied that are to be patched.
func (d *Decoder) patch(copied []byte) error {
	for d.gap >= 0 && d.gap < len(copied) {
		values := d.streams[streamValues]
		if len(values) == 0 || values[0] == 0 {
			return formatError("a patch changes nothing")
		}
		copied[d.gap] += values[0]
		d.streams[streamValues] = values[1:]
		copied = copied[d.gap+1:]
		if err := d.nextGap(); err != nil {
			return err
		}
	}
	if d.gap >= 0 {
		d.gap -= len(copied)
	}
	return nil
}

// nextGap reads where the next patch is.
func (d *Decoder) nextGap() error {
	gaps := d.streams[streamGaps]
	if len(gaps) == 0 {
		d.gap = -1
		return nil
	}
	gap, n := binary.Uvarint(gaps)
	if n <= 0 || gap >= MaxBlockOutput {
		return formatError("the position of a patch is not one")
	}
	d.gap, d.streams[streamGaps] = int(gap), gaps[n:]
	return nil
}

// output writes a target in pieces, and checks each block's sum.
type output struct {
	dst io.Writer
	// left is how much of the target has not been made, block how much of the current block.
	left  int64
	block int
	want  uint32
	sum   uint32
	data  []byte
}

func (o *output) reset(dst io.Writer, size int64) {
	o.dst, o.left, o.block = dst, size, 0
	o.data = grow(o.data, outputSize)[:0]
}

func (o *output) begin(size int, sum uint32) { o.block, o.want, o.sum = size, sum, 0 }

func (o *output) write(data []byte) error {
	for len(data) > 0 {
		room, err := o.room(len(data))
		if err != nil {
			return err
		}
		data = data[copy(room, data):]
	}
	return nil
}

// room returns space for the next bytes: at least one, n at most.
func (o *output) room(n int) ([]byte, error) {
	if len(o.data) == cap(o.data) {
		if err := o.flush(); err != nil {
			return nil, err
		}
	}
	at := len(o.data)
	n = min(n, cap(o.data)-at)
	o.data = o.data[:at+n]
	o.block -= n
	o.left -= int64(n)
	return o.data[at:], nil
}

func (o *output) flush() error {
	o.sum = crc32.Update(o.sum, castagnoli, o.data)
	_, err := o.dst.Write(o.data)
	o.data = o.data[:0]
	if err != nil {
		return fmt.Errorf("delta: write: %w", err)
	}
	return nil
}

// end completes a block.
func (o *output) end() error {
	if o.block != 0 {
		return formatError("a block makes fewer bytes than it says")
	}
	if err := o.flush(); err != nil {
		return err
	}
	if o.sum != o.want {
		return fmt.Errorf("delta: the checksum of a block does not match: %w", ErrMismatch)
	}
	return nil
}

func readFull(r io.Reader, data []byte) error {
	if _, err := io.ReadFull(r, data); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("delta: read: %w", err)
	}
	return nil
}

// fields are a header that is being taken apart.
type fields struct {
	rest []byte
	bad  bool
}

// readFields reads a byte and as many bytes as it says.
func readFields(r io.Reader, limit int) (fields, error) {
	data := make([]byte, 1, 1+limit)
	if err := readFull(r, data); err != nil {
		return fields{}, err
	}
	size := int(data[0])
	if size > limit {
		return fields{}, formatError("a header has %d bytes, more than %d", size, limit)
	}
	data = data[1 : 1+size]
	return fields{rest: data}, readFull(r, data)
}

// number reads a number up to limit.
func (f *fields) number(limit uint64) int64 {
	value, n := binary.Uvarint(f.rest)
	if n <= 0 || value > limit {
		f.bad, f.rest = true, nil
		return 0
	}
	f.rest = f.rest[n:]
	return int64(value)
}

func (f *fields) take(n int) []byte {
	if len(f.rest) < n {
		f.bad, f.rest = true, nil
		return make([]byte, n)
	}
	data := f.rest[:n]
	f.rest = f.rest[n:]
	return data
}

func (f *fields) byte() byte { return f.take(1)[0] }
