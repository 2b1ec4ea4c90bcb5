package nar

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// plant makes a random tree.
func plant(t testing.TB, r *rand.Rand, dir string, depth int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for n := range r.IntN(6) {
		name := filepath.Join(dir, fmt.Sprintf("%d-\x01\xff %s", n, strings.Repeat("x", r.IntN(20))))
		var err error
		switch kind := r.IntN(4); {
		case kind == 0 && depth > 0:
			plant(t, r, name, depth-1)
		case kind == 1:
			err = os.Symlink("../some where", name)
		default:
			data := make([]byte, []int{0, 1, 7, 8, 9, 4095, 70_000}[r.IntN(7)])
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			err = os.WriteFile(name, data, []os.FileMode{0o644, 0o755}[r.IntN(2)])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAViewIsWhatDumpWrites(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	root := t.TempDir()
	file, link := filepath.Join(root, "file"), filepath.Join(root, "link")
	if err := errJoin(os.WriteFile(file, []byte("one file"), 0o755), os.Symlink("file", link)); err != nil {
		t.Fatal(err)
	}
	paths := []string{file, link}
	for n := range 20 {
		dir := filepath.Join(root, fmt.Sprint(n))
		plant(t, r, dir, 3)
		paths = append(paths, dir)
	}
	for _, path := range paths {
		want := dumped(t, path)
		v, err := OpenView(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(v, 0, v.Size()))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %s: %d bytes, want %d, %v", seed, path, len(got), len(want), err)
		}
		var readers sync.WaitGroup
		for range 4 {
			offset := r.Int64N(v.Size())
			length := r.Int64N(v.Size()-offset) + 1
			readers.Go(func() {
				part := make([]byte, length)
				if _, err := v.ReadAt(part, offset); err != nil || !bytes.Equal(part, want[offset:offset+length]) {
					t.Errorf("seed %d: %s: %d bytes at %d differ: %v", seed, path, length, offset, err)
				}
			})
		}
		readers.Wait()
		if n, err := v.ReadAt(make([]byte, 10), v.Size()-3); n != 3 || err != io.EOF {
			t.Errorf("behind the end: %d, %v", n, err)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAViewNoticesAFileThatChanged(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"longer":         func(path string) error { return os.WriteFile(path, []byte("longer than it was"), 0o644) },
		"shorter":        func(path string) error { return os.Truncate(path, 3) },
		"a symlink":      func(path string) error { return errJoin(os.Remove(path), os.Symlink("other", path)) },
		"a pipe":         func(path string) error { return errJoin(os.Remove(path), unix.Mkfifo(path, 0o644)) },
		"gone":           os.Remove,
		"its folder too": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			path := filepath.Join(dir, "sub", "file")
			if err := errJoin(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("as it was"), 0o644), os.WriteFile(dir+"/sub/other", []byte("different"), 0o644)); err != nil {
				t.Fatal(err)
			}
			v, err := OpenView(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(io.NewSectionReader(v, 0, v.Size())); err == nil {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
}

func TestAViewBoundsItsMemory(t *testing.T) {
	s := structure{v: &View{structure: make([]byte, MaxViewStructure-1)}}
	if _, err := s.Write([]byte{1}); err != nil {
		t.Error(err)
	}
	if _, err := s.Write([]byte{1}); err == nil {
		t.Error("no bound")
	}
}

func errJoin(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func dumped(t *testing.T, path string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Dump(&out, path); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// BenchmarkView reads a store path from the beginning to the end, beside Dump.
func BenchmarkView(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "tree")
	r := rand.New(rand.NewPCG(1, 1))
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for n := range 40 {
		plant(b, r, filepath.Join(dir, fmt.Sprint(n)), 4)
	}
	size, err := Size(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("dump", func(b *testing.B) {
		b.SetBytes(int64(size))
		for b.Loop() {
			if err := Dump(io.Discard, dir); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("view", func(b *testing.B) {
		b.SetBytes(int64(size))
		for b.Loop() {
			v, err := OpenView(dir)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, io.NewSectionReader(v, 0, v.Size())); err != nil {
				b.Fatal(err)
			}
			v.Close()
		}
	})
}
