package nar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

const writeBuffer = 256 << 10

// Writer writes a NAR from the nodes of a tree. It is a [Handler], and takes them in a Handler's order. After
// an error it refuses all that follows.
type Writer struct {
	w     *bufio.Writer
	size  uint64
	open  []directory
	begun bool
	err   error
}

// directory is one that was begun and not ended.
type directory struct {
	path string
	last string
	// begun is how much was written when its first entry began.
	begun uint64
}

// NewWriter begins a NAR. Nothing is certain to have reached w before [Writer.Close].
func NewWriter(w io.Writer) *Writer { return &Writer{w: bufio.NewWriterSize(w, writeBuffer)} }

// Size returns the number of bytes written so far.
func (w *Writer) Size() uint64 { return w.size }

// Directory begins a directory. It ends by itself, when a node comes that does not lie in it.
func (w *Writer) Directory(path string) error {
	if err := w.begin(path); err != nil {
		return err
	}
	if len(w.open) > MaxDepth {
		return w.fail(&FormatError{Path: path, Reason: fmt.Sprintf("directories are nested deeper than %d", MaxDepth)})
	}
	w.str("(", "type", "directory")
	w.open = append(w.open, directory{path: path, begun: w.size})
	return w.err
}

// File writes a file. The contents must have exactly size bytes.
func (w *Writer) File(path string, executable bool, size uint64, contents io.Reader) error {
	if err := w.beginFile(path, executable, size); err != nil {
		return err
	}
	if err := w.copy(contents, size); err != nil {
		return w.fail(fmt.Errorf("nar: write %q: %w", path, err))
	}
	return w.endFile(size)
}

// Symlink writes a symlink.
func (w *Writer) Symlink(path, target string) error {
	if reason := checkTarget(target); reason != "" {
		return w.fail(&FormatError{Path: path, Reason: reason})
	}
	if err := w.begin(path); err != nil {
		return err
	}
	w.str("(", "type", "symlink", "target", target, ")")
	return w.endEntry()
}

// Close ends the NAR and hands all of it to the underlying writer, which stays open.
func (w *Writer) Close() error {
	if w.err == nil && !w.begun {
		return w.fail(errors.New("nar: a NAR needs a root"))
	}
	w.endDirectories(0)
	if err := w.w.Flush(); err != nil {
		return w.fail(fmt.Errorf("nar: write: %w", err))
	}
	return w.err
}

func (w *Writer) beginFile(path string, executable bool, size uint64) error {
	if err := w.begin(path); err != nil {
		return err
	}
	w.str("(", "type", "regular")
	if executable {
		w.str("executable", "")
	}
	w.str("contents")
	w.number(size)
	return w.err
}

func (w *Writer) endFile(size uint64) error {
	w.pad(size)
	w.str(")")
	return w.endEntry()
}

// copy copies exactly size bytes.
func (w *Writer) copy(r io.Reader, size uint64) error {
	var n int64
	var err error
	if c, ok := r.(*contents); ok && c.left == size {
		n, err = c.WriteTo(w.w)
	} else {
		n, err = io.CopyN(w.w, r, int64(size))
	}
	w.size += uint64(n)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the file has %d bytes, not %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	return err
}

// begin writes what comes before a node: the magic before the root, the head of an entry elsewhere.
func (w *Writer) begin(path string) error {
	if w.err != nil {
		return w.err
	}
	if path == "" {
		if w.begun {
			return w.fail(&FormatError{Reason: "a second root"})
		}
		w.begun = true
		w.str(magic)
		return w.err
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
		if dir == "" {
			return w.fail(&FormatError{Path: path, Reason: "the path is not relative"})
		}
	}
	if reason := checkName(name); reason != "" {
		return w.fail(&FormatError{Path: path, Reason: reason})
	}
	depth := len(w.open)
	for depth > 0 && w.open[depth-1].path != dir {
		depth--
	}
	if depth == 0 {
		return w.fail(&FormatError{Path: path, Reason: "its directory was not begun, or has ended"})
	}
	w.endDirectories(depth)
	parent := &w.open[depth-1]
	if parent.last != "" && name <= parent.last {
		return w.fail(&FormatError{Path: path, Reason: fmt.Sprintf("it comes after %q", parent.last)})
	}
	parent.last = name
	w.str("entry", "(", "name", name, "node")
	return w.err
}

// endEntry ends the entry around a node, which the root has none of.
func (w *Writer) endEntry() error {
	if len(w.open) > 0 {
		w.str(")")
	}
	return w.err
}

// endDirectories ends directories until only depth of them are open.
func (w *Writer) endDirectories(depth int) {
	for len(w.open) > depth {
		w.open = w.open[:len(w.open)-1]
		w.str(")")
		_ = w.endEntry()
	}
}

func (w *Writer) str(values ...string) {
	for _, value := range values {
		w.number(uint64(len(value)))
		w.raw(value)
		w.pad(uint64(len(value)))
	}
}

func (w *Writer) number(value uint64) {
	if w.err == nil {
		n, err := w.w.Write(binary.LittleEndian.AppendUint64(w.w.AvailableBuffer(), value))
		w.count(n, err)
	}
}

// pad writes the zero bytes after a string of size bytes.
func (w *Writer) pad(size uint64) {
	const zeros = "\x00\x00\x00\x00\x00\x00\x00"
	w.raw(zeros[:padding(size)])
}

func (w *Writer) raw(text string) {
	if w.err == nil {
		n, err := w.w.WriteString(text)
		w.count(n, err)
	}
}

func (w *Writer) count(n int, err error) {
	w.size += uint64(n)
	if err != nil {
		_ = w.fail(fmt.Errorf("nar: write: %w", err))
	}
}

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}
