package proto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// The format of [MethodImport] and [MethodExport] is a sequence of zstd frames that hold paths, references first. Each path
// is a big-endian u32 length, that many bytes of [ImportEntry] as JSON, and exactly NarSize bytes of NAR, or Delta bytes of a delta (closure/delta). A
// length of zero ends it, so that a stream that was cut never looks complete. Frames may end anywhere, also within a NAR.
const (
	// maxImportHeader bounds a path's metadata, in bytes.
	maxImportHeader = 4 << 20
	// ImportWindow is the largest zstd window, in bytes. It bounds the reader's memory.
	ImportWindow = 8 << 20
	// maxNarSize bounds what a header may announce, in bytes; it only keeps arithmetic safe.
	maxNarSize = 1 << 50
)

// ImportEntry is what the import format says of a path.
type ImportEntry struct {
	PathInfo
	// Base is the path whose NAR a delta is made against; empty where the NAR itself follows.
	Base string `json:"base,omitempty"`
	// Was are the hash parts of what had the references' places in the base, in their order, and empty where there is none. With that of Base itself they are
	// the delta's reference map.
	Was []string `json:"was,omitempty"`
	// Delta is the delta's size, in bytes.
	Delta uint64 `json:"delta,omitempty"`
}

// body is the size of what follows the entry, in bytes.
func (e ImportEntry) body() uint64 {
	if e.Base != "" {
		return e.Delta
	}
	return e.NarSize
}

// ReferenceMap is the reference map of a path's delta, as both sides have it: hash parts as they are in the base, and what has taken their places. base and
// path are the hash parts of the two paths, was is [ImportEntry.Was], and references are those of the path. Where two came from one, the first one counts.
func ReferenceMap(base, path string, was, references []string) map[string]string {
	pairs := map[string]string{base: path}
	for i, old := range was {
		if _, taken := pairs[old]; old != "" && !taken && i < len(references) {
			pairs[old] = references[i]
		}
	}
	return pairs
}

// AppendImportEntry appends an entry in the import format, without its NAR or delta.
func AppendImportEntry(dst []byte, e ImportEntry) ([]byte, error) {
	if err := checkImportEntry(e); err != nil {
		return dst, err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return dst, err
	}
	if len(text) > maxImportHeader {
		return dst, fmt.Errorf("metadata of %q has %d bytes, the limit is %d", e.Path, len(text), maxImportHeader)
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(text))), text...), nil
}

// AppendImportEnd appends what ends the import format.
func AppendImportEnd(dst []byte) []byte { return binary.BigEndian.AppendUint32(dst, 0) }

// ImportWriter writes paths in the import format, as one frame and without deltas.
type ImportWriter struct {
	z    *zstd.Encoder
	left uint64
	path string
	err  error
}

// NewImportWriter writes to w, which it does not close. The level is zstd's, 1 to 22.
func NewImportWriter(w io.Writer, level int) (*ImportWriter, error) {
	z, err := zstd.NewWriter(w,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithWindowSize(ImportWindow),
		zstd.WithEncoderCRC(false), // every NAR has its SHA-256
		zstd.WithEncoderConcurrency(2))
	if err != nil {
		return nil, fmt.Errorf("open zstd writer: %w", err)
	}
	return &ImportWriter{z: z}, nil
}

// Begin writes the path's metadata and returns where exactly info.NarSize bytes of NAR are written, before the
// next call of any method.
func (w *ImportWriter) Begin(info PathInfo) (io.Writer, error) {
	if err := w.complete(); err != nil {
		return nil, err
	}
	head, err := AppendImportEntry(nil, ImportEntry{PathInfo: info})
	if err != nil {
		return nil, err
	}
	w.left, w.path = info.NarSize, info.Path
	w.write(head)
	return importNAR{w}, w.err
}

// Flush sends what was written so far, so that the peer can work on it.
func (w *ImportWriter) Flush() error {
	if err := w.complete(); err != nil {
		return err
	}
	w.err = w.z.Flush()
	return w.err
}

// Close ends the stream. Where something went wrong before, the stream stays without its end, and the reader sees that.
func (w *ImportWriter) Close() error {
	err := w.complete()
	if err == nil {
		w.write(AppendImportEnd(nil))
		err = w.err
	}
	if w.err == nil {
		w.err = errors.New("import stream is closed")
	}
	return errors.Join(err, w.z.Close())
}

// complete says whether the last NAR was written to its end.
func (w *ImportWriter) complete() error {
	if w.err == nil && w.left > 0 {
		w.err = fmt.Errorf("write %q: the NAR is %d bytes shorter than announced", w.path, w.left)
	}
	return w.err
}

func (w *ImportWriter) write(p []byte) {
	if w.err == nil {
		_, w.err = w.z.Write(p)
	}
}

type importNAR struct{ w *ImportWriter }

func (n importNAR) Write(p []byte) (int, error) {
	w := n.w
	if w.err == nil && uint64(len(p)) > w.left {
		w.err = fmt.Errorf("write %q: the NAR is longer than announced", w.path)
	}
	if w.err != nil {
		return 0, w.err
	}
	w.left -= uint64(len(p))
	w.write(p)
	return len(p), w.err
}

// ImportReader reads paths in the import format. Its memory is bounded whatever it reads.
type ImportReader struct {
	z    *zstd.Decoder
	br   *bufio.Reader
	left uint64
	err  error
}

// NewImportReader reads from r. Close it to release its memory.
func NewImportReader(r io.Reader) (*ImportReader, error) {
	z, err := zstd.NewReader(r,
		zstd.WithDecoderMaxWindow(ImportWindow),
		zstd.WithDecoderMaxMemory(4*ImportWindow),
		// The window is small enough that moving it costs more than holding it twice.
		zstd.WithDecoderLowmem(false),
		zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("open zstd reader: %w", err)
	}
	return &ImportReader{z: z, br: bufio.NewReaderSize(z, 64<<10)}, nil
}

// Next returns the next path and its NAR or delta, which is exactly NarSize or Delta bytes or an error; neither is verified. What
// was not read of the previous one is skipped. It returns [io.EOF] at the stream's end and
// [io.ErrUnexpectedEOF], wrapped, where the stream was cut.
func (r *ImportReader) Next() (ImportEntry, io.Reader, error) {
	if r.err != nil {
		return ImportEntry{}, nil, r.err
	}
	entry, err := r.next()
	if err != nil {
		r.err = err
		return ImportEntry{}, nil, err
	}
	return entry, importBody{r}, nil
}

func (r *ImportReader) next() (ImportEntry, error) {
	if r.left > 0 {
		if _, err := io.Copy(io.Discard, importBody{r}); err != nil {
			return ImportEntry{}, err
		}
	}
	var head [4]byte
	if _, err := io.ReadFull(r.br, head[:]); err != nil {
		return ImportEntry{}, cutError(err)
	}
	length := binary.BigEndian.Uint32(head[:])
	if length == 0 {
		return ImportEntry{}, io.EOF
	}
	if length > maxImportHeader {
		return ImportEntry{}, fmt.Errorf("read import stream: metadata of %d bytes, the limit is %d", length, maxImportHeader)
	}
	// The buffer grows with what really arrives, not with what was announced.
	var text bytes.Buffer
	if _, err := io.CopyN(&text, r.br, int64(length)); err != nil {
		return ImportEntry{}, cutError(err)
	}
	return r.parse(text.Bytes())
}

func (r *ImportReader) parse(text []byte) (ImportEntry, error) {
	var info ImportEntry
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&info); err != nil {
		return info, fmt.Errorf("read import stream: decode metadata: %w", err)
	}
	if dec.InputOffset() != int64(len(text)) {
		return info, errors.New("read import stream: more than one value in a path's metadata")
	}
	if err := checkImportEntry(info); err != nil {
		return info, fmt.Errorf("read import stream: %w", err)
	}
	r.left = info.body()
	return info, nil
}

// Close releases the reader's memory. It does not read the rest.
func (r *ImportReader) Close() {
	if r.err == nil {
		r.err = errors.New("import stream is closed")
	}
	r.z.Close()
}

type importBody struct{ r *ImportReader }

func (b importBody) Read(p []byte) (int, error) {
	if b.r.left == 0 {
		return 0, io.EOF
	}
	if uint64(len(p)) > b.r.left {
		p = p[:b.r.left]
	}
	n, err := b.r.br.Read(p)
	b.r.left -= uint64(n)
	if err != nil {
		err = cutError(err)
		b.r.err = err
	}
	return n, err
}

// cutError names the end of a stream that should have gone on.
func cutError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read import stream: %w", err)
}

// checkImportEntry checks that an entry says what follows it.
func checkImportEntry(e ImportEntry) error {
	if (e.Base == "") != (e.Delta == 0) || e.Delta > maxNarSize {
		return fmt.Errorf("metadata of %.300q: a delta of %d bytes against %.300q", e.Path, e.Delta, e.Base)
	}
	if e.Base == "" && len(e.Was) > 0 || len(e.Was) > len(e.References) {
		return fmt.Errorf("metadata of %.300q: %d earlier references for %d", e.Path, len(e.Was), len(e.References))
	}
	return checkImportInfo(e.PathInfo)
}

// checkImportInfo checks what this package needs; whether paths are store paths is the importer's to check.
func checkImportInfo(info PathInfo) error {
	if info.Path == "" {
		return errors.New("metadata without a path")
	}
	if raw, err := hex.DecodeString(info.NarHash); err != nil || len(raw) != 32 {
		return fmt.Errorf("metadata of %.300q: the NAR hash is no SHA-256", info.Path)
	}
	if info.NarSize == 0 || info.NarSize > maxNarSize {
		return fmt.Errorf("metadata of %.300q: a NAR of %d bytes", info.Path, info.NarSize)
	}
	return nil
}
