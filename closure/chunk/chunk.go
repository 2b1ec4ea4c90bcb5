// Package chunk describes a file that somebody else has by the hashes of its pieces, so that a delta against it can be made without it.
//
// Where a piece ends depends on the bytes before that place alone, so equal contents are cut alike wherever they lie. Whoever has the base sends its
// [Signature]; whoever has the target cuts it in the same way and looks its pieces up. docs/units.md has the format and the rules.
//
// Signatures are not trusted: any bytes give an error or copies that lie within both files. A wrong one gives a delta that makes another file than the target,
// and the caller verifies a hash of that in any case. The package opens no file.
package chunk

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// MinSize and MaxSize bound a chunk, in bytes; the last one of a file may be smaller. The mean is 16 KiB.
	MinSize = 4 << 10
	MaxSize = 64 << 10
	// HashSize is that of a chunk's hash, in bytes.
	HashSize = 12
	// KeySize is that of a [Key], in bytes.
	KeySize = 32

	// window is how many bytes the rolling hash knows.
	window = 64
	// threshold ends a chunk where the rolling hash is below it: once in 12 KiB behind the first 4.
	threshold = (1<<64 - 1) / (12 << 10)
	// bufferSize is how much of a file is read at once, in bytes. What is left of it is read again.
	bufferSize = 1 << 20
	// gearDomain sets the table of the rolling hash apart from other hashes.
	gearDomain = "fleet chunk gear 1\n"
)

// Key is what hashes of chunks depend on. It is random, and new for each push, so that nobody can make contents beforehand that seem equal.
type Key [KeySize]byte

// Hash is a part of the SHA-256 of a key and a chunk.
type Hash [HashSize]byte

// Chunk is a piece of a file. Chunks of a file follow each other.
type Chunk struct {
	// Size is in bytes.
	Size int
	Hash Hash
}

// Cutter cuts files into chunks. It keeps a buffer of 1 MiB and must not be used concurrently.
type Cutter struct {
	gear [256]uint64
	// keyed holds the key, and behind it what is hashed.
	keyed  []byte
	buffer []byte
}

// NewCutter returns a cutter that hashes with that key.
func NewCutter(key Key) *Cutter {
	c := &Cutter{keyed: append(make([]byte, 0, KeySize+MaxSize), key[:]...)}
	for i := range c.gear {
		sum := sha256.Sum256(append([]byte(gearDomain), byte(i)))
		c.gear[i] = binary.BigEndian.Uint64(sum[:])
	}
	return c
}

// Cut calls each for every chunk of a file of that size, in order, until that returns an error.
func (c *Cutter) Cut(file io.ReaderAt, size int64, each func(Chunk) error) error {
	for off := int64(0); off < size; {
		piece, err := c.read(file, off, min(bufferSize, size-off))
		if err != nil {
			return err
		}
		used, last := 0, off+int64(len(piece)) == size
		for used < len(piece) && (last || len(piece)-used >= MaxSize) {
			n := c.length(piece[used:])
			if err := each(Chunk{n, c.hash(piece[used : used+n])}); err != nil {
				return err
			}
			used += n
		}
		off += int64(used)
	}
	return nil
}

func (c *Cutter) read(file io.ReaderAt, off, size int64) ([]byte, error) {
	c.buffer = slices.Grow(c.buffer[:0], int(size))[:size]
	if n, err := file.ReadAt(c.buffer, off); n < len(c.buffer) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("chunk: read %d bytes at %d: %w", size, off, err)
	}
	return c.buffer, nil
}

// length is that of the chunk that data begins with. data ends where the file does, or holds MaxSize bytes.
func (c *Cutter) length(data []byte) int {
	if len(data) <= MinSize {
		return len(data)
	}
	data = data[:min(len(data), MaxSize)]
	rolling := uint64(0)
	for _, b := range data[MinSize-window : MinSize] {
		rolling = rolling<<1 + c.gear[b]
	}
	for i, b := range data[MinSize:] {
		if rolling = rolling<<1 + c.gear[b]; rolling < threshold {
			return MinSize + i + 1
		}
	}
	return len(data)
}

func (c *Cutter) hash(data []byte) Hash {
	c.keyed = append(c.keyed[:KeySize], data...)
	sum := sha256.Sum256(c.keyed)
	return Hash(sum[:HashSize])
}
