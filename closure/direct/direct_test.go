//go:build linux

package direct

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// importAll imports items with a new importer, which it closes.
func importAll(ctx context.Context, opts Options, items []item) error {
	im := New(ctx, opts)
	for _, it := range items {
		if im.Import(it.info, bytes.NewReader(it.nar)) != nil {
			break
		}
	}
	return errors.Join(im.Wait(), im.Close())
}

func importWithDaemon(t testing.TB, items []item) {
	t.Helper()
	im := closure.NewImporter(t.Context(), closure.ImportOptions{SkipSignatures: true})
	for _, it := range items {
		if err := im.Import(it.info, bytes.NewReader(it.nar)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(im.Wait(), im.Close()); err != nil {
		t.Fatal(err)
	}
}

// snapshot is what can be seen of the store: the trees with all their metadata, and what the daemon knows.
func snapshot(t testing.TB, items []item) map[string]string {
	t.Helper()
	seen := make(map[string]string)
	for _, it := range items {
		err := filepath.WalkDir(it.info.Path.String(), func(name string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			seen[name] = describe(t, name)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	conn, err := daemon.Open(t.Context(), daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, it := range items {
		info, err := conn.QueryPathInfo(t.Context(), it.info.Path)
		if err != nil {
			t.Fatal(err)
		}
		seen["info of "+it.info.Path.String()] = fmt.Sprintf("%+v", info)
	}
	return seen
}

func describe(t testing.TB, name string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatal(err)
	}
	attributes, err := unix.Llistxattr(name, nil)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	target, _ := os.Readlink(name)
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	return fmt.Sprintf("%o %d:%d %d bytes, changed %d.%d, %d links, %d attributes, target %q", st.Mode, st.Uid, st.Gid, size, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink, attributes, target)
}

func compareSnapshots(t testing.TB, got, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s:\n got %s\nwant %s", name, got[name], text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d nodes, not %d", len(got), len(want))
	}
}

func TestWhatIsImportedIsWhatTheDaemonImports(t *testing.T) {
	items := shapes(t)
	machineStore(t, "")
	importWithDaemon(t, items)
	want := snapshot(t, items)
	for name, opts := range map[string]Options{
		"in memory": {}, "streamed": {Memory: 16}, "one by one": {Workers: 1}, "for a caller that holds roots": {Protected: true},
	} {
		t.Run(name, func(t *testing.T) {
			machineStore(t, "")
			old := unix.Umask(0o077)
			defer unix.Umask(old)
			var done []storepath.Path
			opts.Done = func(path storepath.Path) { done = append(done, path) }
			if err := importAll(t.Context(), opts, items); err != nil {
				t.Fatal(err)
			}
			compareSnapshots(t, snapshot(t, items), want)
			for i, it := range items {
				if i >= len(done) || done[i] != it.info.Path {
					t.Fatalf("registered in the order %v", done)
				}
			}
			if left := locksLeft(t); len(left) > 0 {
				t.Error("locks are left:", left)
			}
			verify(t)
		})
	}
}

func TestTheStoreMayBeMountedReadOnly(t *testing.T) {
	items := shapes(t)
	machineStore(t, "")
	for _, flags := range []uintptr{unix.MS_BIND, unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID} {
		if err := unix.Mount("/nix/store", "/nix/store", "", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	defer unix.Unmount("/nix/store", unix.MNT_DETACH)
	if err := Possible(t.Context(), Options{}); err != nil {
		t.Error(err)
	}
	if err := importAll(t.Context(), Options{}, items); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/nix/store/x", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Error("it is writable for others:", err)
	}
	verify(t)
}

func TestWhatIsThereIsLeftOrReplaced(t *testing.T) {
	items := shapes(t)
	machineStore(t, "")
	importWithDaemon(t, items[:3])
	want := snapshot(t, items[:3])
	for _, it := range items[3:] {
		leftover := filepath.Join(it.info.Path.String(), "a", "b")
		if err := errors.Join(os.MkdirAll(leftover, 0o755), os.Symlink("/etc", filepath.Join(leftover, "c")), os.WriteFile(it.info.Path.String()+".lock", nil, 0o600),
			os.WriteFile(filepath.Join(leftover, "d"), nil, 0), os.Chmod(leftover, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := importAll(t.Context(), Options{}, items); err != nil {
		t.Fatal(err)
	}
	compareSnapshots(t, snapshot(t, items[:3]), want)
	if left := locksLeft(t); len(left) > 0 {
		t.Error("locks are left:", left)
	}
	verify(t)
}

func TestContentAddressesAndDerivationsGoThroughTheDaemon(t *testing.T) {
	machineStore(t, "")
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	added := strings.TrimSpace(nix(t, "--add", source))
	conn, err := daemon.Open(t.Context(), daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := conn.QueryPathInfo(t.Context(), must(storepath.Parse(added)))
	if err != nil || info.CA == "" {
		t.Fatal(info, err)
	}
	var archive bytes.Buffer
	if err := errors.Join(nar.Dump(&archive, added), conn.Close()); err != nil {
		t.Fatal(err)
	}
	first := item{info: info, nar: archive.Bytes()}
	items := shapes(t)
	second := items[0]
	second.info.References = []storepath.Path{first.info.Path}
	items = append([]item{first, second}, shapes(t)[1:]...)
	want := fmt.Sprintf("%+v", info)
	machineStore(t, "")
	if err := importAll(t.Context(), Options{}, items); err != nil {
		t.Fatal(err)
	}
	if got := snapshot(t, items)["info of "+added]; got != want {
		t.Errorf("got %s, not %s", got, want)
	}
	verify(t)
}

func TestReferencesMustBeValid(t *testing.T) {
	items := shapes(t)
	machineStore(t, "")
	var missing *ReferenceError
	if err := importAll(t.Context(), Options{}, items[1:2]); !errors.As(err, &missing) || missing.Reference != items[0].info.Path {
		t.Error(err)
	}
	if err := importAll(t.Context(), Options{}, []item{items[1], items[0]}); !errors.As(err, &missing) {
		t.Error("the wrong order was accepted:", err)
	}
	for _, it := range items {
		if err := importAll(t.Context(), Options{}, []item{it}); err != nil {
			t.Fatal(err)
		}
	}
	verify(t)
}

func TestALargeFolder(t *testing.T) {
	var archive bytes.Buffer
	w := nar.NewWriter(&archive)
	err := w.Directory("")
	for i := range 30_000 {
		err = errors.Join(err, w.File(fmt.Sprintf("%06d", i), false, 1, strings.NewReader("x")))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	items := []item{packed(t, "large", archive.Bytes())}
	machineStore(t, "")
	if err := errors.Join(importAll(t.Context(), Options{}, items), os.Rename(items[0].info.Path.String(), "/nix/store/x")); err != nil {
		t.Fatal(err)
	}
	dir, err := openFolder("/nix/store")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	if err := removeTree(dir, "x"); err != nil {
		t.Error(err)
	}
	if left, err := exists(dir, "x"); left || err != nil {
		t.Error("it is left", err)
	}
}

func TestAnImportEndsWithItsContext(t *testing.T) {
	items := many(t, 4, 50)
	machineStore(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	im := New(ctx, Options{})
	for _, it := range items[:25] {
		if err := im.Import(it.info, bytes.NewReader(it.nar)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := im.Import(items[25].info, bytes.NewReader(items[25].nar)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := im.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := errors.Join(im.Close(), im.Close()); err != nil {
		t.Error(err)
	}
	if left := locksLeft(t); len(left) > 0 {
		t.Error("locks are left:", left)
	}
	if err := importAll(t.Context(), Options{}, items); err != nil {
		t.Error(err)
	}
	verify(t)
}
