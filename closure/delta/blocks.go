package delta

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Level says how hard the streams of a delta are compressed.
type Level int

const (
	// LevelDefault is zstd's level 3 or so.
	LevelDefault Level = iota
	// LevelNone does not compress: for many small deltas that are compressed together.
	LevelNone
	// LevelFast is zstd's level 1 or so.
	LevelFast
	// LevelBetter is zstd's level 7 or so.
	LevelBetter
	// LevelBest is zstd's level 11 or so.
	LevelBest
)

func (l Level) zstd() (zstd.EncoderLevel, error) {
	switch l {
	case LevelDefault, LevelNone:
		return zstd.SpeedDefault, nil
	case LevelFast:
		return zstd.SpeedFastest, nil
	case LevelBetter:
		return zstd.SpeedBetterCompression, nil
	case LevelBest:
		return zstd.SpeedBestCompression, nil
	}
	return 0, fmt.Errorf("delta: there is no level %d", l)
}

// blocks writes instructions, and what they need, in blocks.
type blocks struct {
	dst   io.Writer
	zstd  *zstd.Encoder
	level Level
	// size bounds the streams of a block.
	size int
	// maxRatio is that of the options.
	maxRatio float64
	stats    Stats
	// header is written with the first block, so that a delta that does not pay has mostly written nothing.
	header []byte

	streams [streams][]byte
	// head and body are a block as it is sent.
	head, body []byte
	// gap counts the copied bytes since the last patch.
	gap uint64
	// pos is where the decoder is in the base after what has been noted. It goes on from block to block.
	pos int64
	// output is how much of the target the block describes, sum its checksum.
	output int
	sum    uint32
	// kind and length are the instruction that may still grow; length is 0 where there is none.
	kind   uint64
	length uint64
}

func (b *blocks) reset(dst io.Writer, size int) {
	b.dst, b.size, b.stats, b.pos = dst, size, Stats{}, 0
	b.clear()
}

func (b *blocks) clear() {
	for i := range b.streams {
		b.streams[i] = b.streams[i][:0]
	}
	b.gap, b.output, b.sum, b.length = 0, 0, 0, 0
}

// reserve is what may be added to the streams before anybody asks for room again: an instruction that was growing,
// a seek, and the next instruction.
const reserve = 3 * maxToken

// room returns how many bytes of the streams are free: at least one patch. It begins a new block where the current one
// is full.
func (b *blocks) room() (int, error) {
	free := b.size - reserve
	for _, stream := range b.streams {
		free -= len(stream)
	}
	if free >= maxPatch && b.output < MaxBlockOutput {
		return free, nil
	}
	return b.size - reserve, b.flush()
}

// copied describes data by old, which is equally long and lies in the base at pos.
func (b *blocks) copied(data, old []byte, pos int64) error {
	for len(data) > 0 {
		free, err := b.room()
		if err != nil {
			return err
		}
		b.seek(pos)
		n := b.patch(data[:min(len(data), MaxBlockOutput-b.output)], old, free/maxPatch)
		b.add(kindCopy, data[:n])
		b.stats.Copied += int64(n)
		data, old, pos = data[n:], old[n:], pos+int64(n)
	}
	return nil
}

// patch notes where data differs from old, at most limit times, and returns how far it came.
func (b *blocks) patch(data, old []byte, limit int) int {
	n := 0
	for patches := 0; n < len(data) && patches < limit; patches++ {
		run := common(data[n:], old[n:len(data)])
		n += run
		b.gap += uint64(run)
		if n == len(data) {
			break
		}
		b.streams[streamGaps] = binary.AppendUvarint(b.streams[streamGaps], b.gap)
		b.streams[streamValues] = append(b.streams[streamValues], data[n]-old[n])
		b.stats.Patched++
		b.gap = 0
		n++
	}
	return n
}

func (b *blocks) literal(data []byte) error {
	for len(data) > 0 {
		free, err := b.room()
		if err != nil {
			return err
		}
		n := min(len(data), MaxBlockOutput-b.output, free)
		b.streams[streamLiterals] = append(b.streams[streamLiterals], data[:n]...)
		b.add(kindLiteral, data[:n])
		b.stats.Literal += int64(n)
		data = data[n:]
	}
	return nil
}

// add notes an instruction for the next bytes of the target.
func (b *blocks) add(kind uint64, data []byte) {
	if b.length > 0 && b.kind != kind {
		b.token()
	}
	b.kind, b.length = kind, b.length+uint64(len(data))
	b.output += len(data)
	b.pos += int64(len(data))
	b.sum = crc32.Update(b.sum, castagnoli, data)
}

// token writes the instruction that was growing.
func (b *blocks) token() {
	if b.length > 0 {
		b.streams[streamControl] = binary.AppendUvarint(b.streams[streamControl], b.length<<2|b.kind)
		b.length = 0
	}
}

func (b *blocks) seek(pos int64) {
	if pos == b.pos {
		return
	}
	b.token()
	b.streams[streamControl] = binary.AppendUvarint(b.streams[streamControl], zigzag(pos-b.pos)<<2|kindSeek)
	b.pos = pos
}

func zigzag(n int64) uint64 { return uint64(n<<1) ^ uint64(n>>63) }

func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }

// flush ends the block, if it has begun.
func (b *blocks) flush() error {
	if b.output == 0 {
		return nil
	}
	b.token()
	b.head = append(b.head[:0], b.header...)
	start := len(b.head)
	b.head = append(b.head, 0)
	b.head = binary.AppendUvarint(b.head, uint64(b.output))
	b.body = b.body[:0]
	for _, stream := range b.streams {
		b.head = binary.AppendUvarint(b.head, uint64(len(stream)))
		b.head = binary.AppendUvarint(b.head, uint64(b.pack(stream)))
	}
	b.head = binary.LittleEndian.AppendUint32(b.head, b.sum)
	b.head[start] = byte(len(b.head) - start - 1)

	b.stats.Blocks++
	b.stats.Described += int64(b.output)
	if err := b.judge(b.stats.Written + int64(len(b.head)+len(b.body))); err != nil {
		return err
	}
	b.header = nil
	b.clear()
	if err := b.write(b.head); err != nil {
		return err
	}
	return b.write(b.body)
}

// judge ends the encoding where the delta has become too large.
func (b *blocks) judge(size int64) error {
	if b.maxRatio > 0 && float64(size) > b.maxRatio*float64(b.stats.Described) {
		return fmt.Errorf("delta: %d bytes for the first %d of the target: %w", size, b.stats.Described, ErrNotWorth)
	}
	return nil
}

// pack appends a stream to the body, and returns the size that the header states: 0 where it is not compressed.
func (b *blocks) pack(stream []byte) int {
	// A frame has at least 9 bytes around its contents.
	const leastFrame = 12
	start := len(b.body)
	if b.level != LevelNone && len(stream) > leastFrame {
		b.body = b.zstd.EncodeAll(stream, b.body)
		if size := len(b.body) - start; size < len(stream) {
			return size
		}
	}
	b.body = append(b.body[:start], stream...)
	return 0
}

// end completes the delta.
func (b *blocks) end() error {
	if err := b.flush(); err != nil {
		return err
	}
	return b.write(append(b.header, 0))
}

func (b *blocks) write(data []byte) error {
	n, err := b.dst.Write(data)
	b.stats.Written += int64(n)
	if err != nil {
		return fmt.Errorf("delta: write: %w", err)
	}
	return nil
}
