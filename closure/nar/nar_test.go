package nar

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// sample is a small NAR that has all kinds of nodes.
func sample(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out)
	for _, err := range []error{
		w.Directory(""),
		w.Directory("bin"),
		w.File("bin/a", true, 5, strings.NewReader("hello")),
		w.Directory("bin/b"),
		w.Symlink("bin/c", "a"),
		w.File("etc", false, 0, strings.NewReader("")),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if w.Size() != uint64(out.Len()) {
		t.Fatalf("size %d of %d bytes", w.Size(), out.Len())
	}
	return out.Bytes()
}

// recorder is a Handler that writes down what it gets.
type recorder struct{ lines []string }

func (r *recorder) Directory(path string) error {
	r.lines = append(r.lines, "dir "+path)
	return nil
}

func (r *recorder) File(path string, executable bool, size uint64, contents io.Reader) error {
	data, err := io.ReadAll(contents)
	r.lines = append(r.lines, fmt.Sprintf("file %s %t %d %s", path, executable, size, data))
	return err
}

func (r *recorder) Symlink(path, target string) error {
	r.lines = append(r.lines, "link "+path+" -> "+target)
	return nil
}

func TestParseHandsOverTheTreeInOrder(t *testing.T) {
	want := []string{"dir ", "dir bin", "file bin/a true 5 hello", "dir bin/b", "link bin/c -> a", "file etc false 0 "}
	archive := sample(t)
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(archive), "byte by byte": iotest.OneByteReader(bytes.NewReader(archive))} {
		var got recorder
		if err := Parse(r, &got); err != nil {
			t.Error(name, err)
		}
		if diff := cmp.Diff(want, got.lines); diff != "" {
			t.Error(name, diff)
		}
	}
}

// skipper reads no contents.
type skipper struct{ recorder }

func (s *skipper) File(string, bool, uint64, io.Reader) error { return nil }

func TestUnreadContentsAreSkipped(t *testing.T) {
	if err := Parse(bytes.NewReader(sample(t)), &skipper{}); err != nil {
		t.Error(err)
	}
}

func TestEveryCutIsUnexpected(t *testing.T) {
	archive := sample(t)
	for n := range archive {
		if err := Parse(bytes.NewReader(archive[:n]), &recorder{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestReadErrorIsKept(t *testing.T) {
	broken := errors.New("broken")
	archive := sample(t)
	for _, n := range []int{0, 40, len(archive)} {
		if err := Parse(io.MultiReader(bytes.NewReader(archive[:n]), iotest.ErrReader(broken)), &recorder{}); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// raw puts a NAR together from strings, without any rule; a string that begins with "\x01" is taken as it is.
func raw(parts ...string) []byte {
	var out []byte
	for _, part := range parts {
		if text, ok := strings.CutPrefix(part, "\x01"); ok {
			out = append(out, text...)
			continue
		}
		out = binary.LittleEndian.AppendUint64(out, uint64(len(part)))
		out = append(out, part...)
		out = append(out, make([]byte, padding(uint64(len(part))))...)
	}
	return out
}

func length(n uint64) string { return "\x01" + string(binary.LittleEndian.AppendUint64(nil, n)) }

func entry(name string) []string {
	return []string{"entry", "(", "name", name, "node", "(", "type", "symlink", "target", "x", ")", ")"}
}

func directoryOf(names ...string) []byte {
	parts := []string{magic, "(", "type", "directory"}
	for _, name := range names {
		parts = append(parts, entry(name)...)
	}
	return raw(append(parts, ")")...)
}

func TestParseRefuses(t *testing.T) {
	deep := []string{magic}
	for range MaxDepth + 2 {
		deep = append(deep, "(", "type", "directory", "entry", "(", "name", "d", "node")
	}
	for rule, archive := range map[string][]byte{
		"another magic":                    raw("nix-archive-2", "(", "type", "directory", ")"),
		"a huge magic":                     raw(length(math.MaxUint64)),
		"no parenthesis":                   raw(magic, "type", "directory", ")"),
		"unknown type":                     raw(magic, "(", "type", "device", ")"),
		"a huge type":                      raw(magic, "(", "type", length(1<<40)),
		"executable with a value":          raw(magic, "(", "type", "regular", "executable", "yes", "contents", "", ")"),
		"executable twice":                 raw(magic, "(", "type", "regular", "executable", "", "executable", "", "contents", "", ")"),
		"file without contents":            raw(magic, "(", "type", "regular", ")"),
		"contents twice":                   raw(magic, "(", "type", "regular", "contents", "", "contents", "", ")"),
		"contents beyond 63 bits":          raw(magic, "(", "type", "regular", "contents", length(1<<63)),
		"symlink without target":           raw(magic, "(", "type", "symlink", ")"),
		"empty target":                     raw(magic, "(", "type", "symlink", "target", "", ")"),
		"target with NUL":                  raw(magic, "(", "type", "symlink", "target", "a\x00", ")"),
		"target of 4096 bytes":             raw(magic, "(", "type", "symlink", "target", strings.Repeat("t", 4096), ")"),
		"entry without parenthesis":        raw(magic, "(", "type", "directory", "entry", "name", "a"),
		"something that is no entry":       raw(magic, "(", "type", "directory", "name", "a"),
		"empty name":                       directoryOf(""),
		"name .":                           directoryOf("."),
		"name ..":                          directoryOf(".."),
		"name with a slash":                directoryOf("a/b"),
		"absolute name":                    directoryOf("/a"),
		"name with NUL":                    directoryOf("a\x00b"),
		"name of 256 bytes":                directoryOf(strings.Repeat("n", 256)),
		"name twice":                       directoryOf("a", "a"),
		"names out of order":               directoryOf("b", "a"),
		"names in the order of a language": directoryOf("a", "B"),
		"padding of a string":              append(raw(magic, "("), "\x04\x00\x00\x00\x00\x00\x00\x00type\x00\x00\x00\x01"...),
		"padding of a file":                raw(magic, "(", "type", "regular", "contents", length(1), "\x01a\x00\x00\x00\x00\x00\x00\x01", ")"),
		"more after the end":               append(directoryOf("a"), 0),
		"a second NAR":                     append(directoryOf("a"), directoryOf("a")...),
		"directories without end":          raw(deep...),
	} {
		t.Run(rule, func(t *testing.T) {
			var format *FormatError
			if err := Parse(bytes.NewReader(archive), &recorder{}); !errors.As(err, &format) {
				t.Error(err)
			}
		})
	}
}

func TestWriterRefuses(t *testing.T) {
	type step = func(*Writer) error
	dir := func(path string) step { return func(w *Writer) error { return w.Directory(path) } }
	link := func(path, target string) step { return func(w *Writer) error { return w.Symlink(path, target) } }
	file := func(path string, size uint64) step {
		return func(w *Writer) error { return w.File(path, false, size, strings.NewReader("four")) }
	}
	for rule, steps := range map[string][]step{
		"nothing at all":                   {},
		"no root":                          {dir("a")},
		"second root":                      {dir(""), dir("")},
		"node below a file":                {dir(""), file("a", 4), file("a/b", 4)},
		"node below a file that is a root": {file("", 4), file("b", 4)},
		"directory that was not begun":     {dir(""), file("a/b", 4)},
		"directory that has ended":         {dir(""), dir("a"), dir("b"), file("a/c", 4)},
		"names out of order":               {dir(""), file("b", 4), file("a", 4)},
		"name twice":                       {dir(""), file("a", 4), dir("a")},
		"name ..":                          {dir(""), dir("..")},
		"absolute name":                    {dir(""), dir("/a")},
		"trailing slash":                   {dir(""), dir("a"), dir("a/")},
		"empty target":                     {dir(""), link("a", "")},
		"short contents":                   {file("", 5)},
	} {
		t.Run(rule, func(t *testing.T) {
			w := NewWriter(io.Discard)
			var err error
			for _, do := range steps {
				err = do(w)
			}
			if closeErr := w.Close(); err == nil && len(steps) > 0 || closeErr == nil {
				t.Errorf("accepted: %v, %v", err, closeErr)
			}
		})
	}
}

func TestCopyReadsToTheEndOfTheNARAndNoFurther(t *testing.T) {
	archive := sample(t)
	stream := bufio.NewReader(io.MultiReader(bytes.NewReader(archive), strings.NewReader("next"), bytes.NewReader(archive)))
	for _, after := range []string{"next", ""} {
		var out bytes.Buffer
		n, err := Copy(&out, stream)
		if err != nil || n != uint64(len(archive)) || !bytes.Equal(out.Bytes(), archive) {
			t.Errorf("%d bytes, %v", n, err)
		}
		rest := make([]byte, len(after))
		if _, err := io.ReadFull(stream, rest); err != nil || string(rest) != after {
			t.Errorf("then %q, %v", rest, err)
		}
	}
	if _, err := Copy(io.Discard, bufio.NewReaderSize(stream, 100)); err == nil {
		t.Error("a buffer that is too small was accepted")
	}
}

func TestMemoryDoesNotGrowWithFiles(t *testing.T) {
	const size = 256 << 20
	pr, pw := io.Pipe()
	go func() {
		w := NewWriter(pw)
		pw.CloseWithError(errors.Join(w.File("", false, size, zeroReader{}), w.Close()))
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sum := sha256.New()
	n, err := Copy(sum, bufio.NewReaderSize(pr, 1<<16))
	runtime.ReadMemStats(&after)
	if err != nil || n < size {
		t.Fatal(n, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
}

type zeroReader struct{}

func (zeroReader) Read(data []byte) (int, error) { clear(data); return len(data), nil }

func FuzzParse(f *testing.F) {
	f.Add(sample(f))
	f.Add(directoryOf("a", "b"))
	f.Add(raw(magic, "(", "type", "regular", "executable", "", "contents", "x", ")"))
	f.Add(raw(magic, "(", "type", "symlink", "target", "x", ")"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		var out bytes.Buffer
		w := NewWriter(&out)
		if err := Parse(bytes.NewReader(archive), w); err != nil {
			return
		}
		if err := w.Close(); err != nil || !bytes.Equal(out.Bytes(), archive) {
			t.Fatalf("the writer gives %x, %v", out.Bytes(), err)
		}
	})
}

// FuzzWriter builds a tree from arbitrary bytes and reads it back.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("da\x00fb\x00contents\x00u\x00lc\x00target\x00"))
	f.Fuzz(func(t *testing.T, script []byte) {
		var out bytes.Buffer
		w := NewWriter(&out)
		want := &recorder{}
		replay(script, w, want)
		if err := w.Close(); err != nil {
			return
		}
		got := &recorder{}
		if err := Parse(bytes.NewReader(out.Bytes()), got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.lines, got.lines); diff != "" {
			t.Fatal(diff)
		}
	})
}

// replay turns NUL-terminated words into nodes. Only what the writer took is recorded.
func replay(script []byte, w *Writer, want *recorder) {
	words := strings.Split(string(script), "\x00")
	next := func() string {
		word := words[0]
		words = words[1:]
		return word
	}
	path, record := "", func(err error, do func(Handler) error) {
		if err == nil {
			_ = do(want)
		}
	}
	for do := func(h Handler) error { return h.Directory("") }; ; {
		record(do(w), do)
		if len(words) < 2 {
			return
		}
		word, argument := next(), next()
		kind, name := word[:min(1, len(word))], word[min(1, len(word)):]
		target := joinPath(path, name)
		switch kind {
		case "d":
			path = target
			do = func(h Handler) error { return h.Directory(target) }
		case "f", "x":
			do = func(h Handler) error {
				return h.File(target, kind == "x", uint64(len(argument)), strings.NewReader(argument))
			}
		case "l":
			do = func(h Handler) error { return h.Symlink(target, argument) }
		default:
			path = path[:max(0, strings.LastIndexByte(path, '/'))]
			do = func(Handler) error { return errors.New("nothing to record") }
		}
	}
}

func BenchmarkParse(b *testing.B) {
	var archive bytes.Buffer
	w := NewWriter(&archive)
	if err := w.Directory(""); err != nil {
		b.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 2048)
	for i := range 1000 {
		if err := w.File(fmt.Sprintf("%04d", i), false, uint64(len(data)), bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(archive.Len()))
	for b.Loop() {
		if err := Parse(bytes.NewReader(archive.Bytes()), &skipper{}); err != nil {
			b.Fatal(err)
		}
	}
}
