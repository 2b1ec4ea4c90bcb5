//go:build linux

package direct

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/nar"
	"fleet/closure/run"
	"fleet/closure/storepath"
)

type bytesBuffer = bytes.Buffer

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

func parse(t testing.TB, base string) storepath.Path {
	t.Helper()
	path, err := storepath.ParseBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

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

func TestNothingOfACorruptNARIsLeft(t *testing.T) {
	items := shapes(t)
	tree, bad := items[5], &closure.CorruptError{}
	flipped := func(i int) []byte {
		data := slices.Clone(tree.nar)
		data[i] ^= 0x20
		return data
	}
	var format *nar.FormatError
	var path *PathError
	huge := packed(t, "huge", claim(t, 1<<40))
	trailing := packed(t, "trailing", append(slices.Clone(tree.nar), make([]byte, 8)...))
	truncated := packed(t, "truncated", tree.nar[:len(tree.nar)-16])
	for _, test := range []struct {
		rule   string
		info   closure.PathInfo
		nar    []byte
		target any
	}{
		{"contents that were changed", tree.info, flipped(len(tree.nar) / 2), &bad},
		{"a structure that was changed", tree.info, flipped(20), &bad},
		{"a NAR that was cut", tree.info, tree.nar[:len(tree.nar)/2], &bad},
		{"no NAR at all", tree.info, nil, &bad},
		{"a file that claims too much", huge.info, huge.nar, &format},
		{"something after its end", trailing.info, trailing.nar, &format},
		{"a NAR that ends too early, as announced", truncated.info, truncated.nar, &path},
	} {
		for name, memory := range map[string]int64{"in memory": 0, "streamed": 16} {
			t.Run(test.rule+", "+name, func(t *testing.T) {
				machineStore(t, "")
				test.info.References = nil
				im := New(t.Context(), Options{Memory: memory})
				good := items[0]
				if err := errors.Join(im.Import(good.info, bytes.NewReader(good.nar)), im.Wait()); err != nil {
					t.Fatal(err)
				}
				_ = im.Import(test.info, bytes.NewReader(test.nar))
				err := im.Wait()
				if !errors.As(err, test.target) {
					t.Errorf("%T %v", err, err)
				}
				if err := im.Import(items[6].info, bytes.NewReader(items[6].nar)); err == nil {
					t.Error("something was imported after an error")
				}
				if err := im.Close(); err != nil {
					t.Error(err)
				}
				left, _ := os.ReadDir("/nix/store")
				for _, entry := range left {
					if entry.Name() != good.info.Path.Base() && entry.Name() != ".links" {
						t.Error("left:", entry.Name())
					}
				}
				nix(t, "--verify-path", good.info.Path.String())
			})
		}
	}
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

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
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

func TestTwoImportersAndTheDaemonWantTheSame(t *testing.T) {
	items := many(t, 1, 300)
	machineStore(t, "")
	var group sync.WaitGroup
	errs := make([]error, 3)
	for i := range 2 {
		group.Go(func() { errs[i] = importAll(t.Context(), Options{Memory: int64(i) * 200_000}, items) })
	}
	group.Go(func() {
		im := closure.NewImporter(t.Context(), closure.ImportOptions{SkipSignatures: true})
		for _, it := range items {
			if im.Import(it.info, bytes.NewReader(it.nar)) != nil {
				break
			}
		}
		errs[2] = errors.Join(im.Wait(), im.Close())
	})
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if left := locksLeft(t); len(left) > 0 {
		t.Error("locks are left:", left)
	}
	snapshot(t, items)
	verify(t)
}

func TestGarbageIsCollectedMeanwhile(t *testing.T) {
	items := many(t, 2, 400)
	machineStore(t, "")
	stop, collected := make(chan struct{}), make(chan int)
	go func() {
		rounds := 0
		for {
			select {
			case <-stop:
				collected <- rounds
				return
			default:
			}
			if err := run.Run(t.Context(), run.Cmd{Argv: []string{"nix-store", "--gc"}}); err != nil {
				t.Error(err)
			}
			rounds++
		}
	}()
	im := New(t.Context(), Options{})
	defer im.Close()
	for i, it := range items {
		if err := im.Import(it.info, bytes.NewReader(it.nar)); err != nil {
			t.Fatal(i, err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := im.Wait(); err != nil {
		t.Fatal(err)
	}
	close(stop)
	if rounds := <-collected; rounds < 2 {
		t.Errorf("garbage was collected %d times", rounds)
	}
	snapshot(t, items)
	verify(t)
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	nix(t, "--gc")
	if _, err := os.Lstat(items[0].info.Path.String()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the protection outlived the importer:", err)
	}
}

func TestALockIsWaitedForWithinABound(t *testing.T) {
	items := shapes(t)
	machineStore(t, "")
	dir, err := openFolder("/nix/store")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	lock, err := lockPath(t.Context(), dir, items[0].info.Path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var locked *LockedError
	if err := importAll(t.Context(), Options{LockTimeout: 50 * time.Millisecond}, items); !errors.As(err, &locked) {
		t.Error(err)
	}
	time.AfterFunc(100*time.Millisecond, lock.release)
	if err := importAll(t.Context(), Options{}, items); err != nil {
		t.Error(err)
	}
	verify(t)
}

func TestAFullStoreIsAnErrorThatLeavesNothing(t *testing.T) {
	items := many(t, 3, 40)
	random := make([]byte, 48<<20)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	var archive bytes.Buffer
	w := nar.NewWriter(&archive)
	if err := errors.Join(w.File("", false, uint64(len(random)), bytes.NewReader(random)), w.Close()); err != nil {
		t.Fatal(err)
	}
	big := packed(t, "big", archive.Bytes())
	for name, memory := range map[string]int64{"in memory": 1 << 30, "streamed": 0} {
		t.Run(name, func(t *testing.T) {
			machineStore(t, "mode=0755,size=40m")
			if err := importAll(t.Context(), Options{}, items); err != nil {
				t.Fatal(err)
			}
			err := importAll(t.Context(), Options{Memory: memory}, append(slices.Clone(items), big))
			var path *PathError
			if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &path) || path.Path != big.info.Path {
				t.Error(err)
			}
			if _, err := os.Lstat(big.info.Path.String()); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			snapshot(t, items)
			verify(t)
		})
	}
}

func TestWhereItMayNotBeUsed(t *testing.T) {
	machineStore(t, "")
	if err := Possible(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	config := os.Getenv("NIX_CONFIG")
	for _, test := range []struct {
		rule, config, reason string
		opts                 Options
		env                  [2]string
	}{
		{rule: "files are linked to one another", config: "auto-optimise-store = true", reason: "auto-optimise-store"},
		{rule: "garbage is collected by need", config: "min-free = 1000", reason: "min-free"},
		{rule: "another store is configured", config: "store = /elsewhere", reason: "elsewhere"},
		{rule: "another store is asked for", opts: Options{Daemon: daemon.Options{Store: "/elsewhere"}}, reason: "elsewhere"},
		{rule: "another daemon is asked for", opts: Options{Daemon: daemon.Options{Socket: "/elsewhere"}}, reason: "elsewhere"},
		{rule: "another database is asked for", opts: Options{StateDir: "/elsewhere"}, reason: "elsewhere"},
		{rule: "nix-store is not there", opts: Options{Program: "/elsewhere/nix-store"}, reason: "not found"},
		{rule: "another store folder is set", env: [2]string{"NIX_STORE_DIR", "/elsewhere"}, reason: "elsewhere"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Setenv("NIX_CONFIG", config+"\n"+test.config)
			if test.env[0] != "" {
				t.Setenv(test.env[0], test.env[1])
			}
			var unavailable *UnavailableError
			if err := Possible(t.Context(), test.opts); !errors.As(err, &unavailable) || !strings.Contains(err.Error(), test.reason) {
				t.Error(err)
			}
		})
	}
	t.Run("the file system is read-only", func(t *testing.T) {
		machineStore(t, "mode=0755,size=30m")
		if err := unix.Mount("", "/nix", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		if err := Possible(t.Context(), Options{}); err == nil {
			t.Error("no error")
		}
	})
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

func TestImportersWithOtherOrdersDoNotWaitForOneAnother(t *testing.T) {
	items := many(t, 5, 2*maxHeld)
	machineStore(t, "")
	var group sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		group.Go(func() {
			errs[i] = importAll(t.Context(), Options{Memory: int64(i) * 300_000, LockTimeout: time.Minute}, reordered(items, uint64(i)))
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if left := locksLeft(t); len(left) > 0 {
		t.Error("locks are left:", left)
	}
	snapshot(t, items)
	verify(t)
}

func TestMoreLocksThanMayBeHeld(t *testing.T) {
	items := many(t, 6, maxHeld+100)
	machineStore(t, "")
	// All refer to the first path, whose lock somebody else has for a while: nothing can be registered until then.
	for i := range items[1:] {
		items[i+1].info.References = sorted(append(items[i+1].info.References, items[0].info.Path))
	}
	dir, err := openFolder("/nix/store")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	lock, err := lockPath(t.Context(), dir, items[0].info.Path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- importAll(t.Context(), Options{}, items) }()
	for len(locksLeft(t)) < maxHeld {
		select {
		case err := <-result:
			t.Fatal("it has ended without the lock: ", err)
		case <-time.After(time.Millisecond):
		}
	}
	lock.release()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	verify(t)
}

// registrar makes a program that is used as nix-store.
func registrar(t *testing.T, script string) string {
	t.Helper()
	real, err := exec.LookPath("nix-store")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "nix-store")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nreal="+real+"\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestARegistrationThatGoesWrong(t *testing.T) {
	items := shapes(t)
	for i := range items {
		items[i].info.Signatures = nil
	}
	var exit *run.ExitError
	var other *RegistrationError
	for _, test := range []struct {
		rule, script string
		target       any
		registered   bool
	}{
		{"it fails", "cat >/dev/null; echo 'database or disk is full' >&2; exit 1", &exit, false},
		{"it does not read", "exit 3", &exit, false},
		{"it is killed", "kill -9 $$", &exit, false},
		{"it fails afterwards", `$real "$@"; exit 1`, &exit, true},
		{"it does nothing", "cat >/dev/null", &other, false},
		{"it registers another deriver", `sed 's/1111111111/2222222222/' | $real "$@"`, &other, true},
		{"it registers another size", `sed -E 's/^([0-9]{3,})$/1\1/' | $real "$@"`, &other, true},
	} {
		t.Run(test.rule, func(t *testing.T) {
			machineStore(t, "")
			err := importAll(t.Context(), Options{Program: registrar(t, test.script), Done: func(path storepath.Path) { t.Error("done:", path) }}, items)
			if !errors.As(err, test.target) {
				t.Errorf("%T %v", err, err)
			}
			if full := strings.Contains(test.script, "full"); IsFull(err) != full {
				t.Error("full:", !full)
			}
			left, _ := filepath.Glob("/nix/store/[0-9a-z]*")
			if test.registered != (len(left) > 0) {
				t.Error("left:", left)
			}
			if !test.registered {
				err := importAll(t.Context(), Options{}, items)
				if err != nil {
					t.Error(err)
				}
				verify(t)
			}
		})
	}
}

func TestADaemonThatEnds(t *testing.T) {
	items := many(t, 7, 400)
	machineStore(t, "")
	var once sync.Once
	im := New(t.Context(), Options{Done: func(storepath.Path) {}})
	for i, it := range items {
		if i == 200 {
			once.Do(func() { im.store.conn.Close() })
		}
		if im.Import(it.info, bytes.NewReader(it.nar)) != nil {
			break
		}
	}
	var closed *daemon.ClosedError
	if err := im.Wait(); !errors.As(err, &closed) {
		t.Error(err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	verify(t)
	if err := importAll(t.Context(), Options{}, items); err != nil {
		t.Error(err)
	}
	snapshot(t, items)
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
