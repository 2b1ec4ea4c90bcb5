package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

const (
	// chunk is the piece of the target that an encoder looks at, in bytes. Alignments go on from one to the next;
	// only the search backwards ends at its edge.
	chunk = 1 << 20
	// DefaultIndexSize bounds the index of the base, in bytes: 2^24 entries, which hold every 8th position of a base of
	// 85 MiB.
	DefaultIndexSize = 80 << 20
	// DefaultCacheSize bounds how much of the base is kept in memory, in bytes.
	DefaultCacheSize = 64 << 20
)

// Options are those of an encoder. The zero value means the defaults.
type Options struct {
	Level Level
	// MaxRatio ends the encoding with [ErrNotWorth] as soon as a block is complete and all of them together have more than
	// this part of the bytes that they describe. 0 never ends it.
	MaxRatio float64
	// MinMatched ends the encoding with [ErrNotWorth] when less than this part of the first MiB was found in the
	// base. Nothing has been written then. 0 never ends it; it does not apply to smaller targets.
	MinMatched float64
	// BlockSize bounds the streams of a block, in bytes; 0 is [DefaultBlockSize]. The decoder needs some 2.5 times as much
	// memory, and must have been made for blocks of this size. Larger ones compress a little better.
	BlockSize int
	// IndexSize bounds the memory of the index, in bytes; 0 is [DefaultIndexSize]. The index takes 1 to 2 bytes a byte of
	// the base, twice as much from [LevelBetter] on. Where it would grow beyond the limit, fewer positions of the base are
	// indexed, every 16th, 32nd and so on, and short matches of large bases are missed: with 80 MiB, those below 527 bytes in
	// a base of 4 GiB. No index is made before a part of the target is found that is not where the base has it.
	IndexSize int64
	// CacheSize bounds how much of the base is kept in memory, in bytes; 0 is [DefaultCacheSize], 1 MiB the
	// least. Larger bases are read more than once.
	CacheSize int64
}

// Input is what a delta is made of.
type Input struct {
	Base Base
	// Refs are the hashes that are replaced in the base; nil is none.
	Refs *Refs
	// Target is read in sequence and must have Size bytes.
	Target io.Reader
	Size   int64
	// At is where in the base the target is expected to begin: what the encoder tries first, and goes on with as long as it
	// explains the target. A wrong one only costs time.
	At int64
}

// Stats say what became of a target, in bytes. After an error they say how far it got.
type Stats struct {
	// Written is the size of the delta.
	Written int64
	// Described is how much of the target the blocks describe that have been completed.
	Described int64
	// Copied bytes of the target came from the base, Literal ones from the delta.
	Copied, Literal int64
	// Patched is how many of the copied ones differ.
	Patched int64
	// Blocks is their number.
	Blocks int
	// Index is the size of the index, 0 where none was needed.
	Index int64
}

// Encoder makes deltas, one after the other, and keeps its buffers. It must not be used concurrently.
//
// It holds at most: the index and the cache of its options, 1 MiB of the target, and seven times the block size, beside what
// zstd needs at the level.
type Encoder struct {
	options Options
	match   matcher
	out     blocks
	chunk   []byte
}

// NewEncoder returns an encoder, or an error where the options make no sense.
func NewEncoder(options Options) (*Encoder, error) {
	if options.BlockSize == 0 {
		options.BlockSize = DefaultBlockSize
	}
	if options.BlockSize < MinBlockSize || options.BlockSize > MaxBlockSize {
		return nil, fmt.Errorf("delta: a block size of %d, not between %d and %d", options.BlockSize, MinBlockSize, MaxBlockSize)
	}
	if options.IndexSize == 0 {
		options.IndexSize = DefaultIndexSize
	}
	if options.CacheSize == 0 {
		options.CacheSize = DefaultCacheSize
	}
	const least = 1 << 10
	if options.IndexSize < least || options.CacheSize < least {
		return nil, fmt.Errorf("delta: an index of %d bytes and a cache of %d, less than %d", options.IndexSize, options.CacheSize, least)
	}
	level, err := options.Level.zstd()
	if err != nil {
		return nil, err
	}
	e := &Encoder{options: options}
	e.out.level, e.out.maxRatio = options.Level, options.MaxRatio
	e.match.out, e.match.limit = &e.out, options.IndexSize
	e.match.stride = stride
	if options.Level >= LevelBetter {
		e.match.stride /= 2
	}
	e.match.base.limit = int(min(options.CacheSize, 1<<40) / pageSize)
	if options.Level == LevelNone {
		return e, nil
	}
	e.out.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(1<<bits.Len(uint(options.BlockSize-1))))
	if err != nil {
		return nil, fmt.Errorf("delta: %w", err)
	}
	return e, nil
}

// Encode writes the delta that makes the target from the base.
func Encode(dst io.Writer, in Input, options Options) (Stats, error) {
	e, err := NewEncoder(options)
	if err != nil {
		return Stats{}, err
	}
	return e.Encode(dst, in)
}

// Encode writes the delta that makes the target from the base. Errors of the target are wrapped, so that it may end
// the encoding, for instance when a context has ended: it is read a MiB at a time.
func (e *Encoder) Encode(dst io.Writer, in Input) (Stats, error) {
	if size := in.Base.Size(); size < 0 || size > MaxSize || in.Size < 0 || in.Size > MaxSize {
		return Stats{}, fmt.Errorf("delta: encode: a base of %d bytes and a target of %d, not up to %d", size, in.Size, int64(MaxSize))
	}
	e.match.reset(in.Base, in.Refs)
	e.match.pos = max(0, min(in.At, in.Base.Size()))
	e.out.reset(dst, e.options.BlockSize)
	err := e.encode(in)
	if e.match.index.built {
		e.out.stats.Index = entrySize * int64(len(e.match.index.entries))
	}
	return e.out.stats, err
}

func (e *Encoder) encode(in Input) error {
	e.out.header = e.header(in.Base.Size(), in.Size, in.Refs)
	for left := in.Size; left > 0; {
		e.chunk = grow(e.chunk, int(min(chunk, left)))
		if _, err := io.ReadFull(in.Target, e.chunk); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("delta: read the target: %w", err)
		}
		if err := e.match.describe(e.chunk); err != nil {
			return err
		}
		if left == in.Size && len(e.chunk) == chunk {
			if err := e.judge(); err != nil {
				return err
			}
		}
		left -= int64(len(e.chunk))
	}
	if n, err := io.ReadFull(in.Target, make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return errors.Join(fmt.Errorf("delta: the target does not end after %d bytes", in.Size), err)
	}
	return e.out.end()
}

// judge ends the encoding where the first chunk had too little of the base.
func (e *Encoder) judge() error {
	found := e.out.stats.Copied
	if float64(found) < e.options.MinMatched*chunk {
		return fmt.Errorf("delta: %d of the first %d bytes are in the base: %w", found, chunk, ErrNotWorth)
	}
	return nil
}

func (e *Encoder) header(base, target int64, refs *Refs) []byte {
	header := append([]byte(Magic), 0, Version, 0)
	header = binary.AppendUvarint(header, uint64(base))
	header = binary.AppendUvarint(header, uint64(target))
	header = binary.AppendUvarint(header, uint64(e.options.BlockSize))
	if refs.Len() > 0 {
		header[len(Magic)+2] |= flagRefs
		header = append(header, refs.id[:]...)
	}
	header[len(Magic)] = byte(len(header) - len(Magic) - 1)
	return header
}
