package pack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// newCompressor makes the encoder of a level that compresses.
func newCompressor(level Level) (*zstd.Encoder, error) {
	const window = SegmentSize
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(level.zstd()), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithWindowSize(window), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true))
}

func (l Level) zstd() zstd.EncoderLevel {
	levels := [...]zstd.EncoderLevel{Fastest: zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression}
	return levels[l]
}

// past is how many bytes of history it pays to compress a unit with at a level. The encoders of the levels below have forgotten nearly all of it
// before they come to what is compressed.
func (l Level) past() int {
	if l < Better {
		return 0
	}
	return maxPast
}

// pastCompressor is the encoder of a level with history. It is made once: its tables have up to 70 MB.
type pastCompressor struct {
	zstd *zstd.Encoder
}

func newPastCompressor(level Level) (*pastCompressor, error) {
	const window = 2 * maxHistory // a power of two, above the history and what it is for
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level.zstd()), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithWindowSize(window), zstd.WithEncoderCRC(true), zstd.WithEncoderDictRaw(0, nil))
	return &pastCompressor{z}, err
}

// compress appends a frame. It does so as a stream: for whole frames, the encoder would have a second set of tables.
func (c *pastCompressor) compress(frame, data, past []byte) ([]byte, error) {
	out := bytes.NewBuffer(frame)
	if err := c.zstd.ResetWithOptions(out, zstd.WithEncoderDictRaw(0, past)); err != nil {
		return nil, err
	}
	c.zstd.ResetContentSize(out, int64(len(data)))
	if _, err := c.zstd.Write(data); err != nil {
		return nil, err
	}
	if err := c.zstd.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// appendStored appends a frame of zstd that holds data as it is (RFC 8878, 3.1.1): a header with the size in 8 bytes and a single segment, and raw blocks, the last of
// which says so. It has no checksum: where nothing is worth to be compressed, SSH's and the NARs' own have to do.
func appendStored(frame, data []byte) []byte {
	const magic, descriptor, maxBlock = 0xfd2fb528, 0xe0, 128 << 10
	frame = slices.Grow(frame, len(data)+3*(len(data)/maxBlock+1)+13)
	frame = append(binary.LittleEndian.AppendUint32(frame, magic), descriptor)
	frame = binary.LittleEndian.AppendUint64(frame, uint64(len(data)))
	for {
		block := data[:min(maxBlock, len(data))]
		data = data[len(block):]
		header := uint32(len(block)) << 3
		if len(data) == 0 {
			header |= 1
		}
		frame = append(frame, byte(header), byte(header>>8), byte(header>>16))
		frame = append(frame, block...)
		if len(data) == 0 {
			return frame
		}
	}
}

// decompressor reads frames, each with its history. Nothing that it allocates depends on what they say of themselves.
type decompressor struct {
	zstd *zstd.Decoder
}

func newDecompressor() (*decompressor, error) {
	// A window is declared in powers of two, and costs nothing: what is decompressed stays in one piece.
	const window = 2 * SegmentSize
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(window),
		zstd.WithDecoderMaxWindow(window), zstd.WithDecodeAllCapLimit(true))
	return &decompressor{z}, err
}

func (d *decompressor) close() { d.zstd.Close() }

// castagnoli is the polynomial that processors compute.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// parts are what a unit consists of. Head and bodies are frames; where the NARs take no bytes, there are no bodies.
type parts struct {
	kind              byte
	raw, head, bodies []byte
}

// join puts the parts of a unit together.
func (p parts) join() []byte {
	unit := make([]byte, 0, prefixSize+len(p.raw)+len(p.head)+len(p.bodies))
	unit = append(unit, magic...)
	unit = append(unit, version, p.kind)
	unit = binary.AppendUvarint(unit, uint64(len(p.raw)))
	unit = binary.AppendUvarint(unit, uint64(len(p.head)))
	unit = binary.LittleEndian.AppendUint32(unit, crc32.Checksum(p.raw, castagnoli()))
	return append(append(append(unit, p.raw...), p.head...), p.bodies...)
}

// split takes a unit apart.
func split(unit []byte) (p parts, err error) {
	const fixed = len(magic) + 2
	switch {
	case len(unit) > MaxUnit:
		return parts{}, formatError("a unit has %d bytes, more than %d", len(unit), MaxUnit)
	case len(unit) < fixed || string(unit[:len(magic)]) != magic:
		return parts{}, formatError("a unit does not begin with %q", magic)
	case unit[len(magic)] != version:
		return parts{}, formatError("a unit has version %d, not %d", unit[len(magic)], version)
	}
	p.kind = unit[len(magic)+1]
	rest := unit[fixed:]
	raw, n := binary.Uvarint(rest)
	head, m := binary.Uvarint(rest[max(0, n):])
	if n <= 0 || m <= 0 || raw > maxRaw || head > uint64(MaxUnit) || uint64(len(rest)-n-m) < 4+raw+head {
		return parts{}, formatError("a unit ends within what it says of its paths")
	}
	rest = rest[n+m:]
	sum := binary.LittleEndian.Uint32(rest)
	rest = rest[4:]
	p.raw, p.head, p.bodies = rest[:raw], rest[raw:raw+head], rest[raw+head:]
	if crc32.Checksum(p.raw, castagnoli()) != sum {
		return parts{}, formatError("the checksum of a unit's hashes does not match")
	}
	return p, nil
}

// decompress returns the contents of a frame of up to limit bytes, in data if they fit.
func (d *decompressor) decompress(frame, past, data []byte, limit uint64) ([]byte, error) {
	var header zstd.Header
	if err := header.Decode(frame); err != nil {
		return nil, formatError("a unit has no frame of zstd: %v", err)
	}
	size := header.FrameContentSize
	if header.Skippable || !header.HasFCS || size > limit {
		return nil, formatError("a unit's frame has %d bytes, or does not say how many", size)
	}
	if len(past) > 0 {
		if err := d.zstd.ResetWithOptions(nil, zstd.WithDecoderDictRaw(0, past)); err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
		// The next frame may have another history, or none.
		defer func() { _ = d.zstd.ResetWithOptions(nil, zstd.WithDecoderDictDelete()) }()
	}
	data = slices.Grow(data[:0], int(size))
	got, err := d.zstd.DecodeAll(frame, data[:0:size])
	if err != nil {
		return nil, formatError("a unit cannot be decompressed: %v", err)
	}
	if uint64(len(got)) != size {
		return nil, formatError("a unit's frame has %d bytes, not %d", len(got), size)
	}
	return got, nil
}
