package nar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

const (
	readBuffer = 256 << 10
	// minStreamBuffer is the longest piece that must be in the buffer as a whole: a symlink's target with its padding.
	minStreamBuffer = MaxTargetLength + 1
)

// Parse reads one NAR, which must be all that r holds, and hands its nodes to h.
func Parse(r io.Reader, h Handler) error {
	br := bufio.NewReaderSize(r, bufferFor(r))
	if err := ParseStream(br, h); err != nil {
		return err
	}
	switch _, err := br.ReadByte(); {
	case err == nil:
		return &FormatError{Reason: "there is more after its end"}
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("nar: read: %w", err)
	}
	return nil
}

// bufferFor is the size of a buffer for r: most NARs are small, and clearing a large buffer takes longer than reading them.
func bufferFor(r io.Reader) int {
	if whole, ok := r.(interface{ Len() int }); ok {
		return min(readBuffer, max(minStreamBuffer, whole.Len()))
	}
	return readBuffer
}

// ParseStream is [Parse] for a NAR inside of a longer stream: it reads exactly to the NAR's end. The
// buffer of r must have at least 4096 bytes, which is bufio's default.
func ParseStream(r *bufio.Reader, h Handler) error {
	if r.Size() < minStreamBuffer {
		return fmt.Errorf("nar: a buffer of %d bytes is too small", r.Size())
	}
	p := &parser{r: r, h: h}
	if err := p.expect("", magic); err != nil {
		return err
	}
	return p.node("", 0)
}

// Copy copies one NAR from r, where more may follow, to w, and checks it on the way. It returns the NAR's size.
func Copy(w io.Writer, r *bufio.Reader) (uint64, error) {
	nw := NewWriter(w)
	if err := ParseStream(r, nw); err != nil {
		return nw.Size(), err
	}
	err := nw.Close()
	return nw.Size(), err
}

type parser struct {
	r *bufio.Reader
	h Handler
}

func (p *parser) node(path string, depth int) error {
	if depth > MaxDepth {
		return &FormatError{Path: path, Reason: fmt.Sprintf("directories are nested deeper than %d", MaxDepth)}
	}
	if err := p.expect(path, "(", "type"); err != nil {
		return err
	}
	kind, err := p.str(path, maxTag)
	if err != nil {
		return err
	}
	switch kind {
	case "regular":
		err = p.file(path)
	case "symlink":
		err = p.symlink(path)
	case "directory":
		return p.directory(path, depth)
	default:
		err = &FormatError{Path: path, Reason: fmt.Sprintf("unknown type %q", kind)}
	}
	if err != nil {
		return err
	}
	return p.expect(path, ")")
}

func (p *parser) file(path string) error {
	tag, err := p.str(path, maxTag)
	if err != nil {
		return err
	}
	executable := tag == "executable"
	if executable {
		if err := p.expect(path, "", "contents"); err != nil {
			return err
		}
	} else if tag != "contents" {
		return &FormatError{Path: path, Reason: fmt.Sprintf("%q in the place of a file's contents", tag)}
	}
	size, err := p.number(path)
	if err != nil {
		return err
	}
	if size > math.MaxInt64 {
		return &FormatError{Path: path, Reason: "a file's size is out of range"}
	}
	c := &contents{r: p.r, left: size}
	if err := p.h.File(path, executable, size, c); err != nil {
		return err
	}
	if _, err := c.WriteTo(io.Discard); err != nil {
		return fmt.Errorf("nar: read %q: %w", path, err)
	}
	return p.zeros(path, padding(size))
}

func (p *parser) symlink(path string) error {
	if err := p.expect(path, "target"); err != nil {
		return err
	}
	target, err := p.str(path, MaxTargetLength)
	if err != nil {
		return err
	}
	if reason := checkTarget(target); reason != "" {
		return &FormatError{Path: path, Reason: reason}
	}
	return p.h.Symlink(path, target)
}

func (p *parser) directory(path string, depth int) error {
	if err := p.h.Directory(path); err != nil {
		return err
	}
	last := ""
	for {
		tag, err := p.str(path, maxTag)
		if err != nil || tag == ")" {
			return err
		}
		if tag != "entry" {
			return &FormatError{Path: path, Reason: fmt.Sprintf("%q in the place of an entry", tag)}
		}
		if err := p.expect(path, "(", "name"); err != nil {
			return err
		}
		name, err := p.str(path, MaxNameLength)
		if err != nil {
			return err
		}
		if reason := checkName(name); reason != "" {
			return &FormatError{Path: path, Reason: reason}
		}
		if last != "" && name <= last {
			return &FormatError{Path: path, Reason: fmt.Sprintf("name %q comes after %q", name, last)}
		}
		last = name
		if err := p.expect(path, "node"); err != nil {
			return err
		}
		if err := p.node(joinPath(path, name), depth+1); err != nil {
			return err
		}
		if err := p.expect(path, ")"); err != nil {
			return err
		}
	}
}

// expect reads strings that can have one value only.
func (p *parser) expect(path string, tags ...string) error {
	for _, want := range tags {
		got, err := p.bytes(path, maxTag)
		if err != nil {
			return err
		}
		if string(got) != want {
			return &FormatError{Path: path, Reason: fmt.Sprintf("%q in the place of %q", got, want)}
		}
	}
	return nil
}

func (p *parser) str(path string, limit int) (string, error) {
	data, err := p.bytes(path, limit)
	return string(data), err
}

// bytes reads a string of at most limit bytes. The result is valid until the next read.
func (p *parser) bytes(path string, limit int) ([]byte, error) {
	size, err := p.number(path)
	if err != nil {
		return nil, err
	}
	if size > uint64(limit) {
		return nil, &FormatError{Path: path, Reason: fmt.Sprintf("a string of %d bytes where at most %d are legal", size, limit)}
	}
	n := int(size)
	data, err := p.peek(path, n+padding(size))
	if err != nil {
		return nil, err
	}
	for _, b := range data[n:] {
		if b != 0 {
			return nil, &FormatError{Path: path, Reason: "padding is not zero"}
		}
	}
	_, err = p.r.Discard(len(data))
	return data[:n], err
}

func (p *parser) number(path string) (uint64, error) {
	data, err := p.peek(path, 8)
	if err != nil {
		return 0, err
	}
	value := binary.LittleEndian.Uint64(data)
	_, err = p.r.Discard(8)
	return value, err
}

func (p *parser) zeros(path string, n int) error {
	data, err := p.peek(path, n)
	if err != nil {
		return err
	}
	for _, b := range data {
		if b != 0 {
			return &FormatError{Path: path, Reason: "padding is not zero"}
		}
	}
	_, err = p.r.Discard(n)
	return err
}

func (p *parser) peek(path string, n int) ([]byte, error) {
	data, err := p.r.Peek(n)
	if err != nil {
		return nil, fmt.Errorf("nar: read %q: %w", path, unexpected(err))
	}
	return data, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// contents reads one file's bytes out of a NAR.
type contents struct {
	r    *bufio.Reader
	left uint64
}

func (c *contents) Read(data []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	if uint64(len(data)) > c.left {
		data = data[:c.left]
	}
	n, err := c.r.Read(data)
	c.left -= uint64(n)
	if err != nil && c.left > 0 {
		return n, unexpected(err)
	}
	return n, nil
}

// WriteTo writes the buffer's own bytes, without a copy in between.
func (c *contents) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for c.left > 0 {
		if _, err := c.r.Peek(1); err != nil {
			return total, unexpected(err)
		}
		data, err := c.r.Peek(int(min(uint64(c.r.Buffered()), c.left)))
		if err != nil {
			return total, unexpected(err)
		}
		n, err := w.Write(data)
		total += int64(n)
		c.left -= uint64(n)
		if _, discardErr := c.r.Discard(n); err != nil || discardErr != nil {
			return total, errors.Join(err, discardErr)
		}
	}
	return total, nil
}
