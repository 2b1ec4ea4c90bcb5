package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"fleet/closure/delta"
)

// recordSize is what a chunk takes in a signature, in bytes: its size less 1, and its hash.
const recordSize = 2 + HashSize

// MaxSignature returns the size of the longest signature of a file of that size, in bytes.
func MaxSignature(size int64) int64 { return recordSize * (size/MinSize + 1) }

// Append appends a chunk to a signature: the chunks of a file, in order, and nothing else.
func Append(signature []byte, c Chunk) []byte {
	signature = binary.BigEndian.AppendUint16(signature, uint16(c.Size-1))
	return append(signature, c.Hash[:]...)
}

// Signature is what is known of a file that somebody else has. It is immutable and safe for concurrent use.
type Signature struct {
	size   int64
	chunks []placed
	// places are those of chunks, of several equal ones the first.
	places map[Hash]int
}

type placed struct {
	Chunk
	off int64
}

// Read reads the signature of a file of that size, and nothing behind it. Memory grows with what has arrived, not with the size.
func Read(r io.Reader, size int64) (*Signature, error) {
	if size < 0 || size > delta.MaxSize {
		return nil, fmt.Errorf("chunk: a file of %d bytes, not up to %d", size, int64(delta.MaxSize))
	}
	s := &Signature{size: size, places: make(map[Hash]int)}
	var record [recordSize]byte
	for off := int64(0); off < size; {
		if _, err := io.ReadFull(r, record[:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("chunk: read a signature: %w", err)
		}
		c := Chunk{int(binary.BigEndian.Uint16(record[:])) + 1, Hash(record[2:])}
		end := off + int64(c.Size)
		if end > size || c.Size < MinSize && end != size {
			return nil, fmt.Errorf("chunk: a signature has a chunk of %d bytes at %d of %d", c.Size, off, size)
		}
		if _, known := s.places[c.Hash]; !known {
			s.places[c.Hash] = len(s.chunks)
		}
		s.chunks = append(s.chunks, placed{c, off})
		off = end
	}
	return s, nil
}

// Match returns what a file of these chunks, made with the signature's key, has in common with the signature's file, in the order of the former.
func (s *Signature) Match(chunks []Chunk) []delta.Copy {
	var copies []delta.Copy
	off, next := int64(0), 0
	for _, chunk := range chunks {
		if place, ok := s.find(chunk, next); ok {
			copies = extend(copies, delta.Copy{Target: off, Base: s.chunks[place].off, Size: int64(chunk.Size)})
			next = place + 1
		}
		off += int64(chunk.Size)
	}
	return copies
}

// find returns the place of a chunk: next where that is one, so that a run of equal chunks is one copy.
func (s *Signature) find(c Chunk, next int) (int, bool) {
	if next < len(s.chunks) && s.chunks[next].Chunk == c {
		return next, true
	}
	place, ok := s.places[c.Hash]
	return place, ok && s.chunks[place].Chunk == c
}

// extend adds a copy to those before it.
func extend(copies []delta.Copy, c delta.Copy) []delta.Copy {
	if n := len(copies) - 1; n >= 0 && copies[n].Target+copies[n].Size == c.Target && copies[n].Base+copies[n].Size == c.Base {
		copies[n].Size += c.Size
		return copies
	}
	return append(copies, c)
}
