//go:build linux

package direct

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// cloneKinds are the ways to make file systems whose files can share contents.
var cloneKinds = map[string][]string{"btrfs": {"btrfs"}, "xfs": {"xfs"}, "xfs with blocks of 1 KiB": {"xfs", "-b", "size=1024"}}

// onCloneKinds runs a test on each of these.
func onCloneKinds(t *testing.T, test func(t *testing.T)) {
	for name, how := range cloneKinds {
		t.Run(name, func(t *testing.T) {
			requireStore(t)
			diskStore(t, how[0], "", how[1:]...)
			test(t)
		})
	}
}

// noise are random bytes.
func noise(seed uint64, size int) []byte {
	data := make([]byte, size)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(data)
	return data
}

// planted is what a test puts at a path: a string is a symlink's target, bytes are a file, an executable one in program. Folders are made as needed.
type planted map[string]any

type program []byte

// add puts nodes into a folder.
func (p planted) add(folder string, nodes planted) {
	for path, node := range nodes {
		p[folder+"/"+path] = node
	}
}

// plant makes a store path of that name.
func plant(t testing.TB, name string, nodes planted) item {
	t.Helper()
	root := filepath.Join(t.TempDir(), name)
	for _, path := range slices.Sorted(maps.Keys(nodes)) {
		file := filepath.Join(root, path)
		check(t, os.MkdirAll(filepath.Dir(file), 0o755))
		switch node := nodes[path].(type) {
		case []byte:
			check(t, os.WriteFile(file, node, 0o644))
		case program:
			check(t, os.WriteFile(file, node, 0o755))
		case string:
			check(t, os.Symlink(node, file))
		}
	}
	return pack(t, name, root)
}

// like are options with a base for all paths.
func like(base item) Options {
	return Options{Base: func(storepath.Path) storepath.Path { return base.info.Path }}
}

// checkContents reads a path from the disk, and compares it with its NAR.
func checkContents(t testing.TB, it item) {
	t.Helper()
	unix.Sync()
	check(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0))
	var stored bytes.Buffer
	check(t, nar.Dump(&stored, it.info.Path.String()))
	if !bytes.Equal(stored.Bytes(), it.nar) {
		t.Errorf("%s is not what was imported", it.info.Path)
	}
}

// sharedBytes is how much of a file is shared with others (FS_IOC_FIEMAP).
func sharedBytes(t testing.TB, name string) int {
	t.Helper()
	const (
		request        = 0xc020660b
		extents        = 1000
		head, each     = 32, 56
		flagSync       = 1
		flagShared     = 0x2000
		lengthAt       = 16
		flagsAt        = 40
		mappedAt       = 20
		countAt, lenAt = 24, 8
	)
	file, err := os.Open(name)
	check(t, err)
	defer file.Close()
	info, err := file.Stat()
	check(t, err)
	if info.Size() == 0 {
		return 0
	}
	var buffer [head + extents*each]byte
	order := binary.LittleEndian
	order.PutUint64(buffer[lenAt:], uint64(info.Size()))
	order.PutUint32(buffer[lengthAt:], flagSync)
	order.PutUint32(buffer[countAt:], extents)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), request, uintptr(unsafe.Pointer(&buffer[0]))); errno != 0 {
		t.Fatal(errno)
	}
	shared := int64(0)
	for i := range int(order.Uint32(buffer[mappedAt:])) {
		extent := buffer[head+i*each:][:each]
		if order.Uint32(extent[flagsAt:])&flagShared != 0 {
			shared += min(int64(order.Uint64(extent[lengthAt:])), info.Size()-int64(order.Uint64(extent)))
		}
	}
	return int(shared)
}

func TestFilesShareWhatTheyHaveInCommonWithTheBase(t *testing.T) {
	const size = 1 << 20
	data := noise(1, size)
	changed := func(places ...int) []byte {
		text := slices.Clone(data)
		for _, at := range places {
			copy(text[at:], "0123456789abcdfghijklmnpqrsvwxyz")
		}
		return text
	}
	holes := make([]byte, size)
	copy(holes[size/2:], data[:compareBlock])
	rules := map[string]struct {
		old, renewed planted
		// shared is how many bytes of the file are shared.
		shared int
	}{
		"the same":                  {planted{"f": data}, planted{"f": data}, size},
		"the first byte differs":    {planted{"f": data}, planted{"f": changed(0)}, size - compareBlock},
		"the last byte differs":     {planted{"f": data}, planted{"f": append(slices.Clone(data[:size-1]), data[size-1]^1)}, size - compareBlock},
		"hash parts differ":         {planted{"f": data}, planted{"f": changed(100, 200_000, 200_100, 700_000)}, size - 3*compareBlock},
		"a hash across two blocks":  {planted{"f": data}, planted{"f": changed(4*compareBlock - 16)}, size - 2*compareBlock},
		"hash parts near by":        {planted{"f": data}, planted{"f": changed(100, 12_300)}, size - keptBlocks},
		"longer":                    {planted{"f": data[:size/2]}, planted{"f": data}, size / 2},
		"longer by a byte":          {planted{"f": data[:size/2-1]}, planted{"f": data[:size/2]}, size/2 - 4096},
		"shorter":                   {planted{"f": data}, planted{"f": data[:size/2]}, size / 2},
		"shorter by a byte":         {planted{"f": data}, planted{"f": data[:size-1]}, size - 4096},
		"not a whole block":         {planted{"f": data[:100_001]}, planted{"f": data[:100_001]}, 100_001},
		"all differs":               {planted{"f": data}, planted{"f": noise(2, size)}, 0},
		"much, but not all differs": {planted{"f": append(noise(3, 3*maxStrange), data...)}, planted{"f": append(noise(4, 3*maxStrange), data...)}, 0},
		"executable by now":         {planted{"f": data}, planted{"f": program(data)}, size},
		"executable no longer":      {planted{"f": program(data)}, planted{"f": data}, size},
		"empty by now":              {planted{"f": data}, planted{"f": []byte{}}, 0},
		"empty before":              {planted{"f": []byte{}}, planted{"f": data}, 0},
		"small":                     {planted{"f": data[:minCloned-1]}, planted{"f": data[:minCloned-1]}, 0},
		"not there before":          {planted{"g": data}, planted{"f": data}, 0},
		"a symlink before":          {planted{"f": "g", "g": data}, planted{"f": data}, 0},
		"a symlink to elsewhere":    {planted{"f": "/etc/passwd", "g": data}, planted{"f": data}, 0},
		"a folder before":           {planted{"f/g": data}, planted{"f": data}, 0},
		"a file before":             {planted{"f": data}, planted{"f/f": data}, 0},
		"in a folder":               {planted{"a/b/c/f": data}, planted{"a/b/c/f": data}, size},
		"a folder was a symlink":    {planted{"a": "b", "b/f": data}, planted{"a/f": data}, 0},
		"mostly zeros":              {planted{"f": holes}, planted{"f": holes}, size},
	}
	folder := strings.NewReplacer(" ", "-", ",", "")
	old, renewed := make(planted), make(planted)
	for rule, test := range rules {
		old.add(folder.Replace(rule), test.old)
		renewed.add(folder.Replace(rule), test.renewed)
	}
	base, it := plant(t, "old", old), plant(t, "new", renewed)
	onCloneKinds(t, func(t *testing.T) {
		check(t, importAll(t.Context(), Options{}, []item{base}))
		check(t, importAll(t.Context(), like(base), []item{it}))
		checkContents(t, base)
		checkContents(t, it)
		for rule, test := range rules {
			file := filepath.Join(it.info.Path.String(), folder.Replace(rule), slices.Sorted(maps.Keys(test.renewed))[0])
			// Where a file ends within a block of 4 KiB, the file system decides.
			if got := sharedBytes(t, file); got < test.shared || got > test.shared+4096 {
				t.Errorf("%s: %d bytes are shared, not %d", rule, got, test.shared)
			}
		}
		verify(t)
	})
}

func TestAPathThatIsAFileSharesItsContents(t *testing.T) {
	data := noise(1, 1<<20)
	base := plant(t, "old", planted{"": data})
	it := plant(t, "new", planted{"": program(data[:len(data)/2])})
	onCloneKinds(t, func(t *testing.T) {
		check(t, importAll(t.Context(), Options{}, []item{base}))
		check(t, importAll(t.Context(), like(base), []item{it}))
		checkContents(t, it)
		if got := sharedBytes(t, it.info.Path.String()); got != len(data)/2 {
			t.Errorf("%d bytes are shared", got)
		}
	})
}

func TestFilesThatShareAreWhatTheirNARSays(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	old, renewed := make(planted), make(planted)
	for i := range 150 {
		before := noise(uint64(i), random.IntN(400_000))
		after := slices.Clone(before)
		for range random.IntN(12) {
			at := random.IntN(len(after) + 1)
			switch random.IntN(4) {
			case 0:
				after = after[:at]
			case 1:
				after = append(after, noise(uint64(at), random.IntN(100_000))...)
			default:
				copy(after[at:], noise(uint64(at), random.IntN(1+len(after)/4)))
			}
		}
		old[strconv.Itoa(i)], renewed[strconv.Itoa(i)] = before, after
	}
	base, it := plant(t, "old", old), plant(t, "new", renewed)
	onCloneKinds(t, func(t *testing.T) {
		check(t, importAll(t.Context(), Options{}, []item{base}))
		for name, memory := range map[string]int64{"in memory": 1 << 30, "streamed": 16} {
			t.Run(name, func(t *testing.T) {
				opts := like(base)
				opts.Memory = memory
				check(t, importAll(t.Context(), opts, []item{it}))
				checkContents(t, it)
				nix(t, "--delete", it.info.Path.String())
			})
		}
		checkContents(t, base)
		verify(t)
	})
}

func TestABaseThatIsNotWhatItWasIsNoHarm(t *testing.T) {
	data := noise(1, 1<<20)
	base, it := plant(t, "old", planted{"f": data}), plant(t, "new", planted{"f": data, "g": data})
	file := base.info.Path.String() + "/f"
	damage := func(t testing.TB) {
		t.Helper()
		check(t, os.Chmod(file, 0o644))
		changeAt(t, file, 500_000, "damage")
	}
	for rule, test := range map[string]struct {
		change func(t testing.TB)
		shared int
	}{
		"it was written to": {damage, 0},
		"it was written to, and that was hidden": {func(t testing.TB) {
			damage(t)
			check(t, os.Chtimes(file, time.Unix(storeTime, 0), time.Unix(storeTime, 0)))
		}, len(data) - compareBlock},
		"it was made shorter, and that was hidden": {func(t testing.TB) {
			check(t, errors.Join(os.Truncate(file, 4*comparePiece), os.Chtimes(file, time.Unix(storeTime, 0), time.Unix(storeTime, 0))))
		}, 4 * comparePiece},
		"it is gone": {func(t testing.TB) { check(t, os.RemoveAll(base.info.Path.String())) }, 0},
	} {
		t.Run(rule, func(t *testing.T) {
			onCloneKinds(t, func(t *testing.T) {
				check(t, importAll(t.Context(), Options{}, []item{base}))
				test.change(t)
				check(t, importAll(t.Context(), like(base), []item{it}))
				checkContents(t, it)
				if got := sharedBytes(t, it.info.Path.String()+"/f"); got != test.shared {
					t.Errorf("%d bytes are shared, not %d", got, test.shared)
				}
			})
		})
	}
}

// hookedReader calls a function when so many bytes were read.
type hookedReader struct {
	io.Reader
	left int
	call func()
}

func (r *hookedReader) Read(data []byte) (int, error) {
	n, err := r.Reader.Read(data[:min(len(data), 100_000)])
	if r.left -= n; r.left <= 0 && r.call != nil {
		r.call()
		r.call = nil
	}
	return n, err
}

func TestABaseThatIsWrittenToMeanwhileIsAnError(t *testing.T) {
	data := noise(1, 1<<20)
	base, it := plant(t, "old", planted{"f": data}), plant(t, "new", planted{"f": data})
	onCloneKinds(t, func(t *testing.T) {
		check(t, importAll(t.Context(), Options{}, []item{base}))
		opts := like(base)
		opts.Memory = 16
		im := New(t.Context(), opts)
		err := im.Import(it.info, &hookedReader{bytes.NewReader(it.nar), len(data) / 2, func() { changeAt(t, base.info.Path.String()+"/f", 0, "changed") }})
		if path := (*PathError)(nil); !errors.As(err, &path) || !errors.Is(err, errBaseChanged) {
			t.Error(err)
		}
		check(t, im.Close())
		if left, err := filepath.Glob(it.info.Path.String() + "*"); len(left) > 0 || err != nil {
			t.Error("left: ", left, err)
		}
	})
}

func TestAFileSystemThatCannotShareIsAskedOnce(t *testing.T) {
	data := noise(1, 1<<20)
	base, it := plant(t, "old", planted{"f": data}), plant(t, "new", planted{"f": data, "g": data})
	for name, mount := range map[string]func(t testing.TB){
		"tmpfs":               func(t testing.TB) { machineStore(t, "mode=0755") },
		"ext4":                func(t testing.TB) { diskStore(t, "ext4", "") },
		"xfs without reflink": func(t testing.TB) { diskStore(t, "xfs", "", "-m", "reflink=0") },
	} {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(onFileSystem) != "" {
				t.Skip("the file system is another one")
			}
			requireStore(t)
			mount(t)
			check(t, importAll(t.Context(), Options{}, []item{base}))
			im := New(t.Context(), like(base))
			check(t, errors.Join(im.Import(it.info, bytes.NewReader(it.nar)), im.Wait(), im.Close()))
			if !im.cloneRefused.Load() {
				t.Error("it would be asked once more")
			}
			checkContents(t, it)
			verify(t)
		})
	}
}
