package nar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// planter makes random trees.
type planter struct {
	*rand.Rand
	t testing.TB
}

func (p planter) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// tree makes a tree of what a store path may hold, of any shape.
func (p planter) tree(dir string, depth int) {
	p.must(os.Mkdir(dir, 0o755))
	for n := range p.IntN(9) {
		path := filepath.Join(dir, p.name(n))
		switch p.IntN(6) {
		case 0, 1:
			if depth > 0 {
				p.tree(path, depth-1)
			}
		case 2:
			p.must(os.Symlink(strings.Repeat("../", p.IntN(40))+"some where", path))
		default:
			p.file(path)
		}
	}
}

// name returns a name of any bytes, or of those that file systems of macOS take.
func (p planter) name(n int) string {
	name := fmt.Appendf(nil, "%d", n)
	for range p.IntN(30) {
		c := byte(1 + p.IntN(255))
		if c == '/' || c >= 0x80 && runtime.GOOS == "darwin" {
			c = '\n'
		}
		name = append(name, c)
	}
	p.Shuffle(len(name), func(i, k int) { name[i], name[k] = name[k], name[i] })
	return string(name)
}

// file makes a file whose size is near a boundary.
func (p planter) file(path string) {
	size := []int{0, 1, 7, 8, 9, 15, 16, 17, 4095, 4096, 70_000}[p.IntN(11)]
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(p.Uint32())
	}
	p.must(os.WriteFile(path, data, []os.FileMode{0o644, 0o755}[p.IntN(2)]))
}

// paths are trees, and a file, an empty one, a symlink and an empty directory as store paths of their own.
func (p planter) paths(trees int) []string {
	root := p.t.TempDir()
	file, empty, link, dir := filepath.Join(root, "file"), filepath.Join(root, "empty"), filepath.Join(root, "link"), filepath.Join(root, "dir")
	p.must(os.WriteFile(file, []byte("one file"), 0o755))
	p.must(os.WriteFile(empty, nil, 0o644))
	p.must(os.Symlink("file", link))
	p.must(os.Mkdir(dir, 0o755))
	paths := []string{file, empty, link, dir}
	for n := range trees {
		dir := filepath.Join(root, fmt.Sprint(n))
		p.tree(dir, 4)
		paths = append(paths, dir)
	}
	return paths
}

// eachView calls test with views of random trees.
func eachView(t *testing.T, trees int, test func(t *testing.T, r *rand.Rand, v *View, want []byte)) {
	seed := rand.Uint64()
	p := planter{rand.New(rand.NewPCG(seed, 1)), t}
	for _, path := range p.paths(trees) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			var want bytes.Buffer
			p.must(Dump(&want, path))
			v := openView(t, path)
			if v.Size() != int64(want.Len()) {
				t.Fatalf("%d bytes, not %d", v.Size(), want.Len())
			}
			test(t, p.Rand, v, want.Bytes())
		})
	}
}

func openView(t testing.TB, path string) *View {
	t.Helper()
	v, err := OpenView(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func TestAViewIsWhatDumpWrites(t *testing.T) {
	eachView(t, 20, func(t *testing.T, r *rand.Rand, v *View, want []byte) {
		for _, size := range []int{1 << 20, 1 + r.IntN(5000)} {
			var got bytes.Buffer
			_, err := io.CopyBuffer(struct{ io.Writer }{&got}, io.NewSectionReader(v, 0, v.Size()), make([]byte, size))
			if err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("in pieces of %d: %d bytes, not these %d: %v", size, got.Len(), len(want), err)
			}
		}
	})
}

func TestAViewIsReadFromAnywhereByAnybody(t *testing.T) {
	eachView(t, 10, func(t *testing.T, r *rand.Rand, v *View, want []byte) {
		var readers sync.WaitGroup
		for range 8 {
			own := rand.New(rand.NewPCG(r.Uint64(), 1))
			readers.Go(func() { readAnywhere(t, own, v, want) })
		}
		readers.Wait()
	})
}

func readAnywhere(t *testing.T, r *rand.Rand, v *View, want []byte) {
	for range 200 {
		off := r.Int64N(v.Size() + 1)
		data := make([]byte, r.Int64N(min(v.Size()-off, 1<<uint(r.IntN(18)))+1))
		if n, err := v.ReadAt(data, off); n != len(data) || err != nil || !bytes.Equal(data, want[off:][:n]) {
			t.Errorf("%d bytes at %d of %d: %d, %v", len(data), off, v.Size(), n, err)
			return
		}
	}
}

func TestAViewEndsWhereTheNAREnds(t *testing.T) {
	eachView(t, 2, func(t *testing.T, _ *rand.Rand, v *View, _ []byte) {
		for off, want := range map[int64]int{v.Size() - 3: 3, v.Size(): 0, v.Size() + 1: 0, 1 << 62: 0} {
			if n, err := v.ReadAt(make([]byte, 10), off); n != want || err != io.EOF {
				t.Errorf("at %d: %d bytes, %v", off, n, err)
			}
		}
		if _, err := v.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
			t.Errorf("before the beginning: %v", err)
		}
	})
}

func TestAViewNoticesAFileThatChanged(t *testing.T) {
	for name, change := range map[string]func(p planter, path string){
		"longer":  func(p planter, path string) { p.must(os.WriteFile(path, []byte("longer than it was"), 0o644)) },
		"shorter": func(p planter, path string) { p.must(os.Truncate(path, 3)) },
		"a symlink": func(p planter, path string) {
			p.must(os.Remove(path))
			p.must(os.Symlink("other", path))
		},
		"a pipe": func(p planter, path string) {
			p.must(os.Remove(path))
			p.must(unix.Mkfifo(path, 0o644))
		},
		"a directory": func(p planter, path string) {
			p.must(os.Remove(path))
			p.must(os.Mkdir(path, 0o755))
		},
		"gone": func(p planter, path string) { p.must(os.Remove(path)) },
		"below a symlink": func(p planter, path string) {
			dir := filepath.Dir(path)
			p.must(os.Rename(dir, dir+"-elsewhere"))
			p.must(os.Symlink(filepath.Base(dir)+"-elsewhere", dir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			path := filepath.Join(dir, "sub", "file")
			p := planter{t: t}
			p.must(os.MkdirAll(filepath.Dir(path), 0o755))
			p.must(os.WriteFile(path, []byte("as it was"), 0o644))
			p.must(os.WriteFile(dir+"/sub/other", []byte("different"), 0o644))
			v := openView(t, dir)
			change(p, path)
			got, err := io.ReadAll(io.NewSectionReader(v, 0, v.Size()))
			if err == nil || !strings.Contains(err.Error(), "sub") {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func TestAViewNoticesAFileThatShrinksWhileItIsOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	p := planter{t: t}
	p.must(os.WriteFile(path, make([]byte, 1000), 0o644))
	v := openView(t, path)
	if _, err := v.ReadAt(make([]byte, 500), 0); err != nil {
		t.Fatal(err)
	}
	p.must(os.Truncate(path, 700))
	var format *FormatError
	if _, err := v.ReadAt(make([]byte, 1000), 0); !errors.As(err, &format) {
		t.Error(err)
	}
}

func TestAViewRefusesWhatNoNARHolds(t *testing.T) {
	dir := t.TempDir()
	planter{t: t}.must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	var format *FormatError
	for _, path := range []string{dir, filepath.Join(dir, "pipe"), "/dev/null"} {
		if _, err := OpenView(path); !errors.As(err, &format) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := OpenView(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestALargeStructureLiesInAFile(t *testing.T) {
	// Symlinks cost their targets, so that few entries are enough.
	dir := filepath.Join(t.TempDir(), "tree")
	p := planter{t: t}
	p.must(os.Mkdir(dir, 0o755))
	target := strings.Repeat("t", MaxTargetLength)
	for i := range MaxViewStructure/MaxTargetLength + 1 {
		p.must(os.Symlink(target, filepath.Join(dir, fmt.Sprintf("link-%05d", i))))
	}
	p.must(os.WriteFile(filepath.Join(dir, "link-00500-file"), []byte("contents in the midst"), 0o755))
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	var want bytes.Buffer
	p.must(Dump(&want, dir))
	before := descriptors(t)
	v := openView(t, dir)
	if !v.mapped || len(v.structure) <= MaxViewStructure {
		t.Errorf("a structure of %d bytes is in memory", len(v.structure))
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 || descriptors(t) != before {
		t.Errorf("left: %v, %d descriptors, %v", left, descriptors(t)-before, err)
	}
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() { readAnywhere(t, rand.New(rand.NewPCG(1, 2)), v, want.Bytes()) })
	}
	readers.Wait()
	got := make([]byte, v.Size())
	if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("it is not what Dump writes: %v", err)
	}
	p.must(v.Close())
	if _, err := v.ReadAt(got[:1], 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	t.Setenv("TMPDIR", filepath.Join(temporary, "nothing"))
	if _, err := OpenView(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without room for it: %v", err)
	}
}

func TestAViewBoundsItsFile(t *testing.T) {
	s := spill{size: maxSpill}
	if _, err := s.write([]byte{1}); err == nil || !strings.Contains(err.Error(), "structure") {
		t.Errorf("no bound: %v", err)
	}
}

func TestAViewKeepsFewFilesOpenAndClosesThem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	plantMany(t, dir, 150, 3, 100)
	var want bytes.Buffer
	if err := Dump(&want, dir); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	v, err := OpenView(dir)
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for n := range uint64(4) {
		readers.Go(func() { readAnywhere(t, rand.New(rand.NewPCG(n, 1)), v, want.Bytes()) })
	}
	readers.Wait()
	// One more is the directory at the path.
	if n := descriptors(t) - before; n > maxHandles+1 || n < maxHandles/2 {
		t.Errorf("%d descriptors are open", n)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if n := descriptors(t) - before; n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
	if _, err := v.ReadAt(make([]byte, v.Size()), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestAViewThatIsClosedClosesWhatIsStillRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	planter{t: t}.must(os.WriteFile(path, []byte("data"), 0o644))
	before := descriptors(t)
	v := openView(t, path)
	h, err := v.acquire(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if n, err := pread(h.fd, make([]byte, 4), 0); n != 4 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	v.release(h)
	if n := descriptors(t) - before; n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
}

// descriptors is how many this process has.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// plantMany makes directories of files, each of size bytes.
func plantMany(t testing.TB, root string, dirs, files, size int) {
	t.Helper()
	data := bytes.Repeat([]byte{0xa5}, size)
	for d := range dirs {
		dir := filepath.Join(root, "share", fmt.Sprintf("dir-%d", d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d.hpp", f)), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// BenchmarkView opens a store path of 5000 small files and reads it from the beginning to the end, beside Dump.
func BenchmarkView(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "tree")
	plantMany(b, dir, 100, 50, 3000)
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
		buffer := make([]byte, 256<<10)
		for b.Loop() {
			v := openView(b, dir)
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.NewSectionReader(v, 0, v.Size()), buffer); err != nil {
				b.Fatal(err)
			}
			v.Close()
		}
	})
}

// BenchmarkViewOfManyEntries opens a directory of 100 000 files.
func BenchmarkViewOfManyEntries(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "tree")
	plantMany(b, dir, 1, 100_000, 1)
	b.ReportAllocs()
	for b.Loop() {
		v := openView(b, dir)
		b.ReportMetric(float64(cap(v.structure)+24*cap(v.files))/100_000, "held-B/entry")
	}
}
