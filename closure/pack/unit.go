package pack

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// window is how far back the compressed part refers, in bytes: a segment.
const window = SegmentSize

// newCompressor makes the encoder of a level that compresses.
func newCompressor(level Level) (*zstd.Encoder, error) {
	levels := [...]zstd.EncoderLevel{Fastest: zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression}
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(levels[level]), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true))
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

func newDecompressor() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxFrame),
		zstd.WithDecoderMaxWindow(maxFrame), zstd.WithDecodeAllCapLimit(true))
}

// castagnoli is the polynomial that processors compute.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// join puts the parts of a unit together.
func join(kind byte, raw, frame []byte) []byte {
	unit := make([]byte, 0, prefixSize+len(raw)+len(frame))
	unit = append(unit, magic...)
	unit = append(unit, version, kind)
	unit = binary.AppendUvarint(unit, uint64(len(raw)))
	unit = binary.LittleEndian.AppendUint32(unit, crc32.Checksum(raw, castagnoli()))
	return append(append(unit, raw...), frame...)
}

// split takes a unit apart.
func split(unit []byte) (kind byte, raw, frame []byte, err error) {
	const fixed = len(magic) + 2
	switch {
	case len(unit) > MaxUnit:
		return 0, nil, nil, formatError("a unit has %d bytes, more than %d", len(unit), MaxUnit)
	case len(unit) < fixed || string(unit[:len(magic)]) != magic:
		return 0, nil, nil, formatError("a unit does not begin with %q", magic)
	case unit[len(magic)] != version:
		return 0, nil, nil, formatError("a unit has version %d, not %d", unit[len(magic)], version)
	}
	kind = unit[len(magic)+1]
	size, n := binary.Uvarint(unit[fixed:])
	if n <= 0 || size > maxRaw || len(unit) < fixed+n+4+int(size) {
		return 0, nil, nil, formatError("a unit ends within its hashes")
	}
	rest := unit[fixed+n:]
	sum := binary.LittleEndian.Uint32(rest)
	raw, frame = rest[4:4+size], rest[4+size:]
	if crc32.Checksum(raw, castagnoli()) != sum {
		return 0, nil, nil, formatError("the checksum of a unit's hashes does not match")
	}
	return kind, raw, frame, nil
}

// decompress returns the contents of a frame, in data if they fit.
func decompress(z *zstd.Decoder, frame, data []byte) ([]byte, error) {
	var header zstd.Header
	if err := header.Decode(frame); err != nil {
		return nil, formatError("a unit has no frame of zstd: %v", err)
	}
	size := header.FrameContentSize
	if header.Skippable || !header.HasFCS || size > maxFrame {
		return nil, formatError("a unit's frame has %d bytes, or does not say how many", size)
	}
	data = slices.Grow(data[:0], int(size))
	got, err := z.DecodeAll(frame, data[:0:size])
	if err != nil {
		return nil, formatError("a unit cannot be decompressed: %v", err)
	}
	if uint64(len(got)) != size {
		return nil, formatError("a unit's frame has %d bytes, not %d", len(got), size)
	}
	return got, nil
}
