// Package pack describes store paths as a sequence of units, and makes their NARs from them again, as docs/units.md
// specifies.
//
// A unit is a few MiB at most, and its bytes depend on its [Spec], the level and the contents of the paths that it names alone. So
// units are made by several workers, once for many hosts, and again after a connection that broke. A [Layout] cuts a list of
// paths into specs, a [Packer] makes units, an [Unpacker] takes them in order and hands NARs to a [Sink]. At some levels a unit is
// compressed with the NARs of the one before it, which both sides have by then.
//
// Nothing that is unpacked is trusted: any bytes give an error or NARs of the stated sizes, never a panic, and memory is
// bounded. NARs are not verified here; the sink does that by their hashes, before anything is registered.
//
// The package opens no file and knows no host: what it reads comes through [Views].
package pack

import (
	"fmt"
	"io"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

const (
	// SmallNAR is the largest NAR that shares a unit with others, in bytes.
	SmallNAR = 4 << 20
	// SegmentSize is how much of a larger NAR one unit describes, in bytes: it bounds the memory of both sides.
	SegmentSize = 8 << 20
	// MaxUnit is the largest unit, in bytes: a bound for whoever reads one.
	MaxUnit = prefixSize + maxRaw + maxText + maxBodies + (maxText+maxBodies)>>10

	// maxBatchNAR bounds the NARs of a batch, in bytes, maxBatch their number.
	maxBatchNAR = 8 << 20
	maxBatch    = 4096
	// maxHashes bounds the store paths that a unit names, maxReferences the references, pairs and signatures of its paths together. The system with
	// most references has a few thousand.
	maxHashes     = 1 << 15
	maxReferences = 1 << 16
	// maxRaw and maxText bound what a unit says of its paths, in bytes: hashes and signatures, and all else.
	maxRaw  = 2 << 20
	maxText = 2 << 20
	// maxBodies bounds what a unit says of NARs, in bytes: as many as it describes, and where they are in a base.
	maxBodies = SegmentSize + 1<<10
	// maxHistory bounds what a unit's bodies are compressed with, in bytes: at most maxPast of the NARs of the unit before, and maxGround of bases.
	maxHistory = maxPast + maxGround
	maxPast    = SegmentSize
	maxGround  = 8 << 20
	// maxPaths bounds the paths of one push. The unpacker remembers each.
	maxPaths = 1 << 18
)

// Level says how hard units are compressed. docs/units.md has what each costs.
type Level int

// The levels are none at all, and those of the zstd encoder, from about 1 to about 11 in terms of the zstd program.
const (
	// Stored does not compress: for links that are faster than any encoder.
	Stored Level = iota
	Fastest
	Default
	Better
	Best
	levels
)

func (l Level) String() string {
	switch l {
	case Stored:
		return "stored"
	case Fastest:
		return "fastest"
	case Default:
		return "default"
	case Better:
		return "better"
	case Best:
		return "best"
	}
	return fmt.Sprintf("level %d", int(l))
}

// Item is one path of a push.
type Item struct {
	Info storepath.Info
	// Base is a path that the receiver has, and that this one is probably like; the zero value is none. Where Copies say what they have in common, it may
	// also be a path that the receiver keeps and that comes earlier in the list, or the path itself.
	Base storepath.Info
	// Refs are the hash parts of store paths in the base, and those that this path has in their places, as for
	// [delta.NewRefs].
	Refs map[string]string
	// Copies, where there are some, are what the path has in common with its base as that is seen through Refs, in the order of the path: the base itself
	// is not needed then. They lie within both, and do not overlap in the path. Of copies from the path itself, those are used that begin [SelfDistance] or
	// more before what they make, and in the same segment unless the path is kept.
	Copies []delta.Copy
	// Keep has the receiver keep the NAR until the end of the push, for later paths and segments. All that it keeps has [MaxKept] bytes and [MaxKeptPaths] at most.
	Keep bool
}

// large says whether the path is described in segments.
func (i Item) large() bool { return i.Info.NarSize > SmallNAR }

// View is a NAR as bytes that can be read at any offset.
type View interface {
	io.ReaderAt
	Size() int64
	Close() error
}

// Views opens the NARs of store paths.
type Views interface {
	Open(path storepath.Path) (View, error)
}

// Unit is what is sent.
type Unit struct {
	Bytes []byte
	// NAR is how many bytes of NARs it describes, Delta how many of them by their base.
	NAR, Delta uint64
}

// ReadError says that a path could not be read from this side's store.
type ReadError struct {
	Path storepath.Path
	Err  error
}

func (e *ReadError) Error() string { return fmt.Sprintf("read %q: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *ReadError) Unwrap() error { return e.Err }

// PathError says that the NAR of a path could not be made or was refused: a base that cannot be read or is another, a delta that
// does not match, an error of the [Sink].
type PathError struct {
	Path storepath.Path
	Err  error
}

func (e *PathError) Error() string { return fmt.Sprintf("unpack %q: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *PathError) Unwrap() error { return e.Err }

// FormatError says that something is not a unit, or that units do not follow each other.
type FormatError struct {
	Reason string
}

func (e *FormatError) Error() string { return "unpack: " + e.Reason }

func formatError(format string, args ...any) error {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}

// Format of a unit.
const (
	magic   = "flu"
	version = 3
	// prefixSize is the longest prefix: magic, version, kind, two sizes, checksum.
	prefixSize = len(magic) + 1 + 1 + 4 + 4 + 4
)

// Kinds of units.
const (
	kindBatch   = iota // several paths, whole
	kindFirst          // the first segment of a path
	kindFurther        // another segment
)

// How a path or a segment is described.
const (
	bodyPlain = iota // as it is
	bodySame         // it is what the base has, seen through the reference map
	bodyDelta        // by a delta against the base, seen through the reference map
)
