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

// The format of [MethodExport] is one zstd stream of paths, references first. Each
// is a big-endian u32 length, that many bytes of [PathInfo] as JSON, and exactly NarSize bytes of NAR. A length of
// zero ends it, so that a stream that was cut never looks complete.
const (
	// maxImportHeader bounds a path's metadata, in bytes.
	maxImportHeader = 4 << 20
	// importWindow is the zstd window of both sides, in bytes. It bounds the reader's memory.
	importWindow = 8 << 20
	// maxNarSize bounds what a header may announce, in bytes; it only keeps arithmetic safe.
	maxNarSize = 1 << 50
)

// ImportWriter writes paths in the import format.
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
		zstd.WithWindowSize(importWindow),
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
	if err := checkImportInfo(info); err != nil {
		return nil, err
	}
	text, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	if len(text) > maxImportHeader {
		return nil, fmt.Errorf("metadata of %q has %d bytes, the limit is %d", info.Path, len(text), maxImportHeader)
	}
	w.left, w.path = info.NarSize, info.Path
	w.write(binary.BigEndian.AppendUint32(nil, uint32(len(text))))
	w.write(text)
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
		w.write([]byte{0, 0, 0, 0})
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
		zstd.WithDecoderMaxWindow(importWindow),
		zstd.WithDecoderMaxMemory(4*importWindow),
		// The window is small enough that moving it costs more than holding it twice.
		zstd.WithDecoderLowmem(false),
		zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("open zstd reader: %w", err)
	}
	return &ImportReader{z: z, br: bufio.NewReaderSize(z, 64<<10)}, nil
}

// Next returns the next path and its NAR, which is exactly NarSize bytes or an error; neither is verified. What
// was not read of the previous NAR is skipped. It returns [io.EOF] at the stream's end and
// [io.ErrUnexpectedEOF], wrapped, where the stream was cut.
func (r *ImportReader) Next() (PathInfo, io.Reader, error) {
	if r.err != nil {
		return PathInfo{}, nil, r.err
	}
	info, err := r.next()
	if err != nil {
		r.err = err
		return PathInfo{}, nil, err
	}
	return info, importBody{r}, nil
}

func (r *ImportReader) next() (PathInfo, error) {
	if r.left > 0 {
		if _, err := io.Copy(io.Discard, importBody{r}); err != nil {
			return PathInfo{}, err
		}
	}
	var head [4]byte
	if _, err := io.ReadFull(r.br, head[:]); err != nil {
		return PathInfo{}, cutError(err)
	}
	length := binary.BigEndian.Uint32(head[:])
	if length == 0 {
		return PathInfo{}, io.EOF
	}
	if length > maxImportHeader {
		return PathInfo{}, fmt.Errorf("read import stream: metadata of %d bytes, the limit is %d", length, maxImportHeader)
	}
	// The buffer grows with what really arrives, not with what was announced.
	var text bytes.Buffer
	if _, err := io.CopyN(&text, r.br, int64(length)); err != nil {
		return PathInfo{}, cutError(err)
	}
	return r.parse(text.Bytes())
}

func (r *ImportReader) parse(text []byte) (PathInfo, error) {
	var info PathInfo
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&info); err != nil {
		return info, fmt.Errorf("read import stream: decode metadata: %w", err)
	}
	if dec.InputOffset() != int64(len(text)) {
		return info, errors.New("read import stream: more than one value in a path's metadata")
	}
	if err := checkImportInfo(info); err != nil {
		return info, fmt.Errorf("read import stream: %w", err)
	}
	r.left = info.NarSize
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
