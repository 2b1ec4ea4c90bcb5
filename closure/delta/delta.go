// Package delta describes one file by another: copies with patches, and literal bytes, as docs/delta.md specifies.
//
// It is made for the files of store paths and their predecessors on a host. The decoder needs a fixed amount of
// memory whatever the files' sizes: the base is read in pieces, and the delta comes in blocks that are bounded and
// checked one by one. Hashes of store paths that both sides know to have been replaced ([Refs]) cost nothing.
//
// Nothing that is decoded is trusted. Any base, any delta and any reference map give an error or some output of the
// stated size, never a panic, never more memory or output than the limits say. The checksums find mistakes (the wrong
// base, a damaged delta), not attacks: the caller verifies the result by a cryptographic hash before it is used.
//
// The package opens no file and starts no goroutine.
package delta

import (
	"errors"
	"hash/crc32"
	"io"
)

const (
	// Magic begins each delta.
	Magic = "fdlt"
	// Version is the only version of the format.
	Version = 1

	// MaxSize is the largest base and the largest target of the format, in bytes: 1 TiB, so that no sum of
	// positions overflows. How an encoder copes with large bases is said at [Options].
	MaxSize = 1 << 40
	// MaxBlockOutput is how much of the target one block describes at most, in bytes. It bounds how much is written
	// before a wrong base is noticed.
	MaxBlockOutput = 8 << 20
	// MinBlockSize and MaxBlockSize bound the streams of one block together, in bytes, before they are compressed.
	MinBlockSize = 1 << 12
	MaxBlockSize = 4 << 20
	// DefaultBlockSize is what an encoder uses and what a decoder accepts without options, in bytes.
	DefaultBlockSize = 2 << 20

	// maxHeader is the longest header of a delta: version, flags, two sizes, block size, identity of the map.
	maxHeader = 1 + 1 + 6 + 6 + 3 + 8
	// maxBlockHeader is the longest header of a block: its output, two sizes for each stream, checksum.
	maxBlockHeader = 4 + streams*(4+4) + 4
	// maxPatch is the longest patch: a gap within the output of a block, and a value.
	maxPatch = 4 + 1
	// maxToken is the longest instruction: 41 bits of a seek and its sign, 2 bits of kind, 7 bits a byte.
	maxToken = 7
)

// flagRefs says that the base is seen through a reference map, whose identity the header holds.
const flagRefs = 1

// Kinds of instructions: the two low bits of each.
const (
	kindCopy    = iota // bytes of the base, some of them patched
	kindLiteral        // bytes of the literals; the position in the base moves along
	kindSeek           // moves the position in the base by a signed number
)

// Streams of a block.
const (
	streamControl  = iota // instructions
	streamGaps            // how many copied bytes lie before each patched one
	streamValues          // what is added to each patched byte
	streamLiterals        // bytes that the base does not have
	streams
)

var (
	// ErrMismatch is wrapped when base, reference map and delta do not belong together, or when the delta was damaged
	// on its way.
	ErrMismatch = errors.New("base, reference map and delta do not belong together, or the delta is damaged")
	// ErrLimit is wrapped when a delta asks for more than the caller allows.
	ErrLimit = errors.New("the delta goes beyond the limits")
	// ErrNotWorth is wrapped when a delta does not become as small as [Options] ask for. What was written must be
	// thrown away; mostly that is nothing, see [Stats.Written].
	ErrNotWorth = errors.New("a delta does not pay")
)

// FormatError says that something is not a delta.
type FormatError struct {
	Reason string
}

func (e *FormatError) Error() string { return "delta: " + e.Reason }

// Base is the file that both sides have. *[bytes.Reader] and *[io.SectionReader] are bases. It must not change while
// it is in use; if it does, the result is an error or wrong, and the caller's hash finds the latter.
type Base interface {
	io.ReaderAt
	// Size is the length in bytes.
	Size() int64
}

// castagnoli is the polynomial that processors compute: the checksum costs less than reading the bytes.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)
