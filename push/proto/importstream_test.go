package proto

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

func utf8Only(ss ...string) bool {
	for _, s := range ss {
		if !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

func pathInfo(path string, size uint64) PathInfo {
	return PathInfo{Path: path, NarHash: strings.Repeat("0a", 32), NarSize: size, References: []string{"/nix/store/ref"}}
}

func importBytes(t testing.TB, level int, infos ...PathInfo) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewImportWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		nar, err := w.Begin(info)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nar.Write(bytes.Repeat([]byte("n"), int(info.NarSize))); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll reads a stream to its end and returns how many paths came whole.
func readAll(raw io.Reader) (int, error) {
	r, err := NewImportReader(raw)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for n := 0; ; n++ {
		_, nar, err := r.Next()
		if errors.Is(err, io.EOF) && err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if _, err := io.Copy(io.Discard, nar); err != nil {
			return n, err
		}
	}
}

func TestACutImportStreamNeverLooksComplete(t *testing.T) {
	whole := importBytes(t, 3, pathInfo("a", 1000), pathInfo("b", 70000), pathInfo("c", 1))
	if n, err := readAll(bytes.NewReader(whole)); n != 3 || err != nil {
		t.Fatalf("whole: %d, %v", n, err)
	}
	for cut := range len(whole) - 3 { // the last three bytes are zstd's own empty last block
		if _, err := readAll(bytes.NewReader(whole[:cut])); err == nil {
			t.Fatalf("cut at %d of %d looks complete", cut, len(whole))
		}
	}
}

func TestASkippedNARIsReadOver(t *testing.T) {
	r, err := NewImportReader(bytes.NewReader(importBytes(t, 9, pathInfo("a", 200000), pathInfo("b", 5))))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	info, _, err := r.Next()
	if err != nil || info.Path != "b" {
		t.Fatalf("%q, %v", info.Path, err)
	}
}

func TestAWriterThatLiesIsStopped(t *testing.T) {
	for name, write := range map[string]func(w *ImportWriter) error{
		"a NAR that is too short": func(w *ImportWriter) error {
			nar, _ := w.Begin(pathInfo("a", 10))
			nar.Write([]byte("123"))
			_, err := w.Begin(pathInfo("b", 1))
			return err
		},
		"a NAR that is too long": func(w *ImportWriter) error {
			nar, _ := w.Begin(pathInfo("a", 2))
			_, err := nar.Write([]byte("123"))
			return err
		},
		"no hash": func(w *ImportWriter) error {
			_, err := w.Begin(PathInfo{Path: "a", NarSize: 1, NarHash: "00"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w, err := NewImportWriter(&b, 3)
			if err != nil {
				t.Fatal(err)
			}
			if err := write(w); err == nil {
				t.Error("no error")
			}
			w.Close()
			if n, err := readAll(&b); err == nil && n > 0 {
				t.Error("the stream looks complete")
			}
		})
	}
}

func TestAReaderRefusesWhatIsTooLarge(t *testing.T) {
	frame := func(window int, parts ...[]byte) []byte {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(window))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			z.Write(p)
		}
		z.Close()
		return b.Bytes()
	}
	for name, raw := range map[string][]byte{
		"a header of 4 GiB":   frame(importWindow, []byte{0xff, 0xff, 0xff, 0xff}),
		"a window of 128 MiB": frame(128<<20, make([]byte, 64<<20)),
		"unknown fields":      frame(importWindow, []byte{0, 0, 0, 9}, []byte(`{"bad":1}`)),
		"two values":          frame(importWindow, []byte{0, 0, 0, 4}, []byte(`{}{}`)),
		"no zstd":             []byte("plain text, not zstd"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readAll(bytes.NewReader(raw)); err == nil {
				t.Error("no error")
			}
		})
	}
}
