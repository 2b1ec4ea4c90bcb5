//go:build linux

package direct

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fleet/closure"
	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// item is a path to import.
type item struct {
	info closure.PathInfo
	nar  []byte
}

// pack makes the NAR of a file or folder a path of that name.
func pack(t testing.TB, name, file string, refs ...storepath.Path) item {
	t.Helper()
	var archive bytes.Buffer
	if err := nar.Dump(&archive, file); err != nil {
		t.Fatal(err)
	}
	return packed(t, name, archive.Bytes(), refs...)
}

func packed(t testing.TB, name string, archive []byte, refs ...storepath.Path) item {
	t.Helper()
	sum := sha256.Sum256(archive)
	digest := sha256.Sum256(append([]byte(name), sum[:]...))
	path, err := storepath.ParseBase(storepath.EncodeBase32(digest[:20]) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return item{info: closure.PathInfo{Path: path, NarHash: sum, NarSize: uint64(len(archive)), References: sorted(refs)}, nar: archive}
}

func sorted(refs []storepath.Path) []storepath.Path {
	refs = slices.Clone(refs)
	storepath.Sort(refs)
	return slices.Compact(refs)
}

func parse(t testing.TB, base string) storepath.Path {
	t.Helper()
	path, err := storepath.ParseBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shapes are paths of every form that a NAR has.
func shapes(t testing.TB) []item {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string, size int, mode os.FileMode) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("contents"), size/8+1)[:size], mode))
	}
	file("file", 100, 0o644)
	file("program", 300_000, 0o755)
	file("empty", 0, 0o600)
	must(os.Symlink("/nowhere/at/all", filepath.Join(dir, "link")))
	must(os.Mkdir(filepath.Join(dir, "hollow"), 0o755))
	file("tree/bin/tool", 70_000, 0o755)
	file("tree/bin/zero", 0, 0o755)
	file("tree/lib/a/b/c/d/deep", 1, 0o644)
	file("tree/lib/a/b/e", 9, 0o644)
	file("tree/lib/z", 8, 0o644)
	file("tree/\xff\x01 odd*name", 8, 0o644)
	must(os.Mkdir(filepath.Join(dir, "tree/lib/a/empty"), 0o700))
	must(os.Symlink("../../../etc/passwd", filepath.Join(dir, "tree/lib/escape")))
	must(os.Symlink("lib", filepath.Join(dir, "tree/lib64")))
	deep := filepath.Join(dir, "deep")
	for range 200 {
		deep = filepath.Join(deep, "d")
	}
	must(os.MkdirAll(deep, 0o755))
	var items []item
	var refs []storepath.Path
	for _, name := range []string{"file", "program", "empty", "link", "hollow", "tree", "deep"} {
		it := pack(t, name, filepath.Join(dir, name), refs...)
		if len(items)%2 == 0 {
			it.info.References = sorted(append(refs, it.info.Path))
			it.info.Deriver = parse(t, "11111111111111111111111111111111-"+name+".drv")
			it.info.Signatures = []string{"key-" + name + ":" + strings.Repeat("A", 86) + "=="}
		}
		items = append(items, it)
		refs = append(refs, it.info.Path)
	}
	return items
}

// many are paths that refer to earlier ones, small and large.
func many(t testing.TB, seed uint64, count int) []item {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	var items []item
	for i := range count {
		size := random.IntN(2000)
		if i%20 == 0 {
			size = random.IntN(400_000)
		}
		var archive bytes.Buffer
		w := nar.NewWriter(&archive)
		err := w.Directory("")
		for j := range 1 + random.IntN(4) {
			text := bytes.Repeat([]byte(fmt.Sprint(i, j)), size/2+1)
			err = errors.Join(err, w.File(fmt.Sprintf("file-%d", j), j == 1, uint64(len(text)), bytes.NewReader(text)))
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		var refs []storepath.Path
		for range min(i, 3) {
			refs = append(refs, items[i-1-random.IntN(min(i, 30))].info.Path)
		}
		items = append(items, packed(t, fmt.Sprintf("path-%d", i), archive.Bytes(), refs...))
	}
	return items
}

// claim is a NAR whose file claims to have size bytes.
func claim(t testing.TB, size uint64) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := nar.NewWriter(&archive)
	if err := errors.Join(w.File("", false, 8, strings.NewReader("12345678")), w.Close()); err != nil {
		t.Fatal(err)
	}
	data := archive.Bytes()
	at := bytes.Index(data, []byte("12345678")) - 8
	for i := range 8 {
		data[at+i] = byte(size >> (8 * i))
	}
	return data
}

// reordered is another order in which references come first.
func reordered(items []item, seed uint64) []item {
	random := rand.New(rand.NewPCG(seed, 2))
	placed := make(map[storepath.Path]bool)
	rest, ordered := slices.Clone(items), []item{}
	for len(rest) > 0 {
		i := random.IntN(min(len(rest), 60))
		ready := true
		for _, ref := range rest[i].info.References {
			ready = ready && placed[ref]
		}
		if ready {
			placed[rest[i].info.Path] = true
			ordered = append(ordered, rest[i])
			rest = slices.Delete(rest, i, i+1)
		}
	}
	return ordered
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
