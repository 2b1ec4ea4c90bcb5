// Package pack makes what a push sends: frames of the import format (push/proto), which hold small paths together, large ones in pieces, and deltas
// (closure/delta) in place of NARs where the host has a predecessor.
//
// What a frame holds depends on its [Spec] and its level alone. So frames are made by several workers at once, once for all hosts that need them, and
// again where they were forgotten meanwhile. The layout of a push depends on its paths, such that two hosts that miss almost the same share most frames.
package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"fleet/closure"
	"fleet/closure/delta"
	"fleet/push/proto"
)

const (
	// smallNAR is how large a NAR may be that shares a frame with others, in bytes.
	smallNAR = 512 << 10
	// pieceSize is how much of a large NAR a frame holds, in bytes: a larger one compresses less than 1 % better and takes longer to be done.
	pieceSize = 4 << 20
	// Frames of small paths end at a path whose hash says so, once in cutEvery times on average, between minBatch and maxBatch bytes of NARs and deltas.
	cutEvery, minBatch, maxBatch = 64, 512 << 10, 4 << 20
	// maxDelta is the largest delta, in bytes: it is made in memory.
	maxDelta = 64 << 20
	// A delta of a large path is given up when less than minMatched of its first MiB was found, or where it has more than maxRatio of the NAR's size: a plain
	// frame would not be larger.
	minMatched, maxRatio = 0.15, 0.6
	// smallRatio is the same for a small path, whose delta is not compressed yet when it is judged.
	smallRatio = 0.8
	// indexSize and cacheSize bound a worker's memory for a delta, in bytes.
	indexSize, cacheSize = 64 << 20, 64 << 20
)

// ErrNotWorth says that a delta does not pay: the path is sent in pieces, see [Entry.Plain].
var ErrNotWorth = errors.New("a delta does not pay")

// Level is how hard is compressed.
type Level int

// The levels. Their speeds differ by a factor of about two each, and that of None is the disk's.
const (
	None Level = iota
	Fastest
	Default
	Better
	Best
)

// LevelOf is the level that is next to one of zstd's, 1 to 22.
func LevelOf(level int) Level {
	switch zstd.EncoderLevelFromZstd(level) {
	case zstd.SpeedFastest:
		return Fastest
	case zstd.SpeedDefault:
		return Default
	case zstd.SpeedBetterCompression:
		return Better
	}
	return Best
}

func (l Level) zstd() zstd.EncoderLevel {
	return []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression}[l]
}

func (l Level) delta() delta.Level {
	return []delta.Level{delta.LevelDefault, delta.LevelDefault, delta.LevelDefault, delta.LevelBetter, delta.LevelBest}[l]
}

// Entry is a path of a push.
type Entry struct {
	Info closure.PathInfo
	// Base is what a delta is made against; its Path is zero where there is none.
	Base closure.PathInfo
	// Was are the hash parts of the references' predecessors, as [proto.ImportEntry] has them.
	Was []string
}

// Plain is the entry without a base.
func (e Entry) Plain() Entry { return Entry{Info: e.Info} }

func (e Entry) based() bool { return !e.Base.Path.IsZero() }

// header is what the import format says of the entry, with a delta of that many bytes, or with its NAR where that is 0.
func (e Entry) header(dst []byte, size int) ([]byte, error) {
	i := e.Info
	wire := proto.ImportEntry{PathInfo: proto.PathInfo{
		Path: i.Path.String(), NarHash: hex.EncodeToString(i.NarHash[:]), NarSize: i.NarSize, Deriver: i.Deriver.String(), Signatures: i.Signatures, CA: i.CA,
	}}
	for _, reference := range i.References {
		wire.References = append(wire.References, reference.String())
	}
	if size > 0 {
		wire.Base, wire.Was, wire.Delta = e.Base.Path.String(), e.Was, uint64(size)
	}
	return proto.AppendImportEntry(dst, wire)
}

// refs is the delta's reference map.
func (e Entry) refs() (*delta.Refs, error) {
	var references []string
	for _, reference := range e.Info.References {
		references = append(references, reference.Hash())
	}
	return delta.NewRefs(proto.ReferenceMap(e.Base.Path.Hash(), e.Info.Path.Hash(), e.Was, references))
}

// Spec says what a frame holds: several small paths, a large path's delta, or a piece of a large path's NAR. The zero Spec is the end of a push.
type Spec struct {
	Entries []Entry
	// Piece counts the pieces of a large path from 0.
	Piece int
}

// NAR is how many bytes of NARs the frame stands for.
func (s Spec) NAR() uint64 {
	if s.Large() && !s.Entries[0].based() {
		return min(pieceSize, s.Entries[0].Info.NarSize-uint64(s.Piece)*pieceSize)
	}
	size := uint64(0)
	for _, e := range s.Entries {
		size += e.Info.NarSize
	}
	return size
}

// Large says that the frame belongs to a path that has its own frames.
func (s Spec) Large() bool { return len(s.Entries) == 1 && s.Entries[0].Info.NarSize > smallNAR }

// key is what the frame's bytes depend on.
func (s Spec) key(level Level) [sha256.Size]byte {
	sum := sha256.New()
	for _, e := range s.Entries {
		fmt.Fprintf(sum, "%s %x %d %q %q %s %x %q\n", e.Info.Path, e.Info.NarHash, e.Info.NarSize, e.Info.Signatures, e.Info.CA, e.Base.Path, e.Base.NarHash, e.Was)
		fmt.Fprintln(sum, e.Info.Deriver, e.Info.References)
	}
	fmt.Fprintln(sum, s.Piece, level)
	return [sha256.Size]byte(sum.Sum(nil))
}

// Layout lays entries out in frames, in their order. A large path with a base is one frame; [Pieces] are its frames where that does not pay.
func Layout(entries []Entry) []Spec {
	var specs []Spec
	var batch []Entry
	size := uint64(0)
	end := func() {
		if len(batch) > 0 {
			specs = append(specs, Spec{Entries: batch})
		}
		batch, size = nil, 0
	}
	for _, e := range entries {
		if e.Info.NarSize > smallNAR {
			end()
			if e.based() {
				specs = append(specs, Spec{Entries: []Entry{e}})
			} else {
				specs = append(specs, Pieces(e)...)
			}
			continue
		}
		if size+e.Info.NarSize > maxBatch {
			end()
		}
		batch = append(batch, e)
		// A path that is sent as a delta counts for less, whether it will be one or not: the layout has to be known before.
		weight := e.Info.NarSize
		if e.based() {
			weight /= 8
		}
		size += weight
		if size >= minBatch && binary.BigEndian.Uint32(e.Info.NarHash[:])%cutEvery == 0 {
			end()
		}
	}
	end()
	return specs
}

// Pieces are the frames of a large path without a base.
func Pieces(e Entry) []Spec {
	var specs []Spec
	for piece := 0; uint64(piece)*pieceSize < e.Info.NarSize; piece++ {
		specs = append(specs, Spec{Entries: []Entry{e.Plain()}, Piece: piece})
	}
	return specs
}

// worker makes frames, one after the other.
type worker struct {
	source  closure.Source
	zstd    map[Level]*zstd.Encoder
	delta   map[delta.Level]*delta.Encoder
	raw     []byte
	scratch bytes.Buffer
}

func newWorker(source closure.Source) *worker {
	return &worker{source: source, zstd: map[Level]*zstd.Encoder{}, delta: map[delta.Level]*delta.Encoder{}}
}

// ReadError says that a path cannot be read as it is registered.
type ReadError struct {
	Entry Entry
	Err   error
}

func (e *ReadError) Error() string { return fmt.Sprintf("read %q: %v", e.Entry.Info.Path, e.Err) }

func (e *ReadError) Unwrap() error { return e.Err }

// pack makes a frame.
func (w *worker) pack(ctx context.Context, spec Spec, level Level) ([]byte, error) {
	w.raw = w.raw[:0]
	var err error
	switch {
	case len(spec.Entries) == 0:
		w.raw = proto.AppendImportEnd(w.raw)
	case spec.Large() && spec.Entries[0].based():
		err = w.large(ctx, spec.Entries[0], level)
		level = None // it is compressed already
	case spec.Large():
		err = w.piece(ctx, spec.Entries[0], spec.Piece)
	default:
		for _, e := range spec.Entries {
			if err = w.small(ctx, e); err != nil {
				break
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return w.compress(level)
}

func (w *worker) compress(level Level) ([]byte, error) {
	if level == None {
		return store(w.raw), nil
	}
	z := w.zstd[level]
	if z == nil {
		var err error
		z, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(level.zstd()), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(proto.ImportWindow))
		if err != nil {
			return nil, err
		}
		w.zstd[level] = z
	}
	// What a cache keeps is as small as it can be.
	return bytes.Clone(z.EncodeAll(w.raw, make([]byte, 0, len(w.raw)/2+1024))), nil
}

// store is a frame of zstd that is not compressed (RFC 8878, 3.1.1): a header with the size of its contents in 8 bytes and a single segment, and raw blocks, the last
// of which says so.
func store(data []byte) []byte {
	const magic, descriptor, maxBlock = 0xfd2fb528, 0xe0, 128 << 10
	frame := make([]byte, 0, len(data)+3*(len(data)/maxBlock+1)+13)
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

// view opens an entry's path or base, and checks its size.
func (w *worker) view(ctx context.Context, e Entry, info closure.PathInfo) (closure.View, error) {
	view, err := w.source.View(ctx, info.Path)
	if err != nil {
		return nil, &ReadError{e, err}
	}
	if uint64(view.Size()) != info.NarSize {
		err := &closure.CorruptError{Path: info.Path, WantSize: info.NarSize, GotSize: uint64(view.Size())}
		return nil, errors.Join(&ReadError{e, err}, view.Close())
	}
	return view, nil
}

// piece appends a piece of a NAR, the first one behind the path's header.
func (w *worker) piece(ctx context.Context, e Entry, piece int) error {
	view, err := w.view(ctx, e, e.Info)
	if err != nil {
		return err
	}
	defer view.Close()
	if piece == 0 {
		if w.raw, err = e.header(w.raw, 0); err != nil {
			return err
		}
	}
	from := int64(piece) * pieceSize
	return w.read(e, view, from, min(pieceSize, view.Size()-from))
}

// read appends a part of a NAR.
func (w *worker) read(e Entry, view closure.View, from, size int64) error {
	at := len(w.raw)
	w.raw = append(w.raw, make([]byte, size)...)
	if _, err := view.ReadAt(w.raw[at:], from); err != nil {
		return &ReadError{e, err}
	}
	return nil
}

// small appends a small path: its delta where that is clearly smaller. It is compressed together with its neighbours.
func (w *worker) small(ctx context.Context, e Entry) error {
	view, err := w.view(ctx, e, e.Info)
	if err != nil {
		return err
	}
	defer view.Close()
	if e.based() {
		err := w.encode(ctx, e, view, delta.LevelNone)
		switch {
		case err == nil && float64(w.scratch.Len()) < smallRatio*float64(e.Info.NarSize):
			return w.appendDelta(e)
		case err != nil && !errors.Is(err, ErrNotWorth):
			return err
		}
	}
	if w.raw, err = e.header(w.raw, 0); err != nil {
		return err
	}
	return w.read(e, view, 0, view.Size())
}

// large appends a large path's delta.
func (w *worker) large(ctx context.Context, e Entry, level Level) error {
	view, err := w.view(ctx, e, e.Info)
	if err != nil {
		return err
	}
	defer view.Close()
	if err := w.encode(ctx, e, view, level.delta()); err != nil {
		return err
	}
	return w.appendDelta(e)
}

func (w *worker) appendDelta(e Entry) (err error) {
	if w.raw, err = e.header(w.raw, w.scratch.Len()); err != nil {
		return err
	}
	w.raw = append(w.raw, w.scratch.Bytes()...)
	return nil
}

// encode makes an entry's delta. A base that cannot be read is no error: it may have been collected, and then a delta does not pay.
func (w *worker) encode(ctx context.Context, e Entry, view closure.View, level delta.Level) error {
	base, err := w.view(ctx, e, e.Base)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotWorth, err)
	}
	defer base.Close()
	refs, err := e.refs()
	if err != nil {
		return err
	}
	encoder := w.delta[level]
	if encoder == nil {
		options := delta.Options{Level: level, MinMatched: minMatched, MaxRatio: maxRatio, IndexSize: indexSize, CacheSize: cacheSize}
		if level == delta.LevelNone {
			options.MinMatched, options.MaxRatio = 0, 0
		}
		if encoder, err = delta.NewEncoder(options); err != nil {
			return err
		}
		w.delta[level] = encoder
	}
	w.scratch.Reset()
	target := &source{ctx: ctx, r: io.NewSectionReader(view, 0, view.Size())}
	_, err = encoder.Encode(&bounded{&w.scratch}, delta.Input{Base: base, Refs: refs, Target: target, Size: view.Size()})
	switch {
	case errors.Is(err, delta.ErrNotWorth):
		return fmt.Errorf("%w: %w", ErrNotWorth, err)
	case target.err != nil:
		return &ReadError{e, target.err}
	case err != nil && !errors.Is(err, ErrNotWorth):
		// The base has changed while it was read.
		return fmt.Errorf("%w: %w", ErrNotWorth, err)
	}
	return err
}

// source ends with its context, and remembers why it could not be read.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// bounded gives a delta up that becomes too large.
type bounded struct{ b *bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.b.Len()+len(p) > maxDelta {
		return 0, fmt.Errorf("%w: it has more than %d bytes", ErrNotWorth, maxDelta)
	}
	return b.b.Write(p)
}
