//go:build linux

package direct

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"fleet/closure"
	"fleet/closure/storepath"
)

// FuzzExtract extracts NARs with the right hash and hostile contents: nothing may appear beside the path, and nothing is left after an error.
func FuzzExtract(f *testing.F) {
	for _, it := range shapes(f) {
		if len(it.nar) < 10_000 {
			f.Add(it.nar)
		}
	}
	path := parse(f, "11111111111111111111111111111111-fuzz")
	f.Fuzz(func(t *testing.T, archive []byte) {
		outer := t.TempDir()
		store := filepath.Join(outer, "store")
		if err := os.Mkdir(store, 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(store, folderFlags, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		info := closure.PathInfo{Path: path, NarHash: sha256.Sum256(archive), NarSize: uint64(len(archive))}
		err = newExtractor(fd, &cloner{store: fd, refused: new(atomic.Bool)}).extract(t.Context(), info, storepath.Path{}, bytes.NewReader(archive))
		names, _ := filepath.Glob(filepath.Join(outer, "*"))
		inside, _ := filepath.Glob(filepath.Join(store, "*"))
		if len(names) != 1 || len(inside) > 1 || (err != nil) != (len(inside) == 0) {
			t.Fatal(names, inside, err)
		}
		if err := removeTree(fd, path.Base()); err != nil {
			t.Fatal(err)
		}
	})
}
