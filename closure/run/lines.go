package run

import "bytes"

// maxLine is where a [LineWriter] breaks a line that does not end.
const maxLine = 64 << 10

// LineWriter cuts what is written to it into lines. It is not safe for concurrent use; [Cmd] writes from one goroutine.
type LineWriter struct {
	each    func(line string)
	pending []byte
}

// NewLineWriter calls each with every line, without its newline and free of escape codes. A line is broken after 64 KiB.
func NewLineWriter(each func(line string)) *LineWriter { return &LineWriter{each: each} }

// Write never fails.
func (w *LineWriter) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		line, after, found := bytes.Cut(rest, []byte{'\n'})
		if room := maxLine - len(w.pending); len(line) > room {
			line, after, found = rest[:room], rest[room:], true
		}
		w.pending = append(w.pending, line...)
		rest = after
		if found {
			w.emit()
		}
	}
	return len(data), nil
}

// Flush hands over what is left of a last line that has no newline.
func (w *LineWriter) Flush() {
	if len(w.pending) > 0 {
		w.emit()
	}
}

func (w *LineWriter) emit() {
	line := StripEscapes(string(bytes.TrimSuffix(w.pending, []byte{'\r'})))
	w.pending = w.pending[:0]
	w.each(line)
}

// tailSize is how much of stderr an [ExitError] shows.
const tailSize = 16 << 10

// tail keeps the last tailSize bytes that were written to it.
type tail struct {
	data []byte
	cut  bool
}

func (t *tail) Write(data []byte) (int, error) {
	n := len(data)
	if n > tailSize {
		data, t.cut = data[n-tailSize:], true
	}
	t.data = append(t.data, data...)
	if len(t.data) > 4*tailSize {
		t.trim()
	}
	return n, nil
}

func (t *tail) trim() {
	if len(t.data) > tailSize {
		t.data = append(t.data[:0], t.data[len(t.data)-tailSize:]...)
		t.cut = true
	}
}

// String returns the tail in whole lines, free of escape codes.
func (t *tail) String() string {
	t.trim()
	data := t.data
	if t.cut {
		if _, after, found := bytes.Cut(data, []byte{'\n'}); found {
			data = after
		}
	}
	return StripEscapes(string(data))
}
