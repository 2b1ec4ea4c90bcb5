//go:build linux

package direct

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet/closure"
	"fleet/closure/nar"
	units "fleet/closure/pack"
	"fleet/closure/run"
	"fleet/closure/storepath"
)

// largeTests is set to 1 by whoever has minutes and gigabytes for trees of the largest kind.
const largeTests = "FLEET_TEST_LARGE"

func byScale[T any](usual, large T) T {
	if os.Getenv(largeTests) == "1" {
		return large
	}
	return usual
}

// extreme is a tree at a limit of what a store path can hold, and a change of it that leaves most of it as it is.
type extreme struct {
	plant  func(t testing.TB, dir string)
	change func(t testing.TB, dir string)
	// segmented trees have to come in segments, others in a batch.
	segmented bool
}

func extremes() map[string]extreme {
	return map[string]extreme{
		"names":   {plant: plantNames, change: func(t testing.TB, dir string) { write(t, dir+"/\xff", "another one", 0o644) }},
		"targets": {plant: plantTargets, change: func(t testing.TB, dir string) { link(t, "another", dir+"/another") }},
		"kinds":   {plant: plantKinds, change: func(t testing.TB, dir string) { write(t, dir+"/empty/no-longer", "", 0o755) }},
		"depth":   {plant: plantDepth, change: func(t testing.TB, dir string) { write(t, dir+"/d/d/file", "another one", 0o755) }},
		"entries": {plant: plantEntries, change: changeEntries, segmented: true},
		"sparse":  {plant: plantSparse, change: changeSparse, segmented: true},
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, name, text string, mode os.FileMode) {
	t.Helper()
	check(t, os.WriteFile(name, []byte(text), mode))
}

func link(t testing.TB, target, name string) {
	t.Helper()
	check(t, os.Symlink(target, name))
}

// plantNames makes files of all names that are legal and that somebody may take for something else.
func plantNames(t testing.TB, dir string) {
	check(t, os.Mkdir(dir, 0o755))
	names := []string{
		"a~nix~case~hack~1", "A~nix~case~hack~1", "a", "A", "...", ". ", ".. ", " ", "  leading", "trailing  ", "line\n", "\nline\n\n", "\r\n", "-rf", "--", "~", "*", "?", `\`, `\n`, `"`, "'", "$(id)", "%s",
		"\u00e4", "a\u0308", "\u202egnp", "\ufeff", "\xc0\xaf", "\xed\xa0\x80", "\xff\xfe\xfd", "a\xc3", "CON", "node", "(", ")", "nix-archive-1", "entry", ".links",
		strings.Repeat("n", nar.MaxNameLength), strings.Repeat("\xff", nar.MaxNameLength), strings.Repeat("\u20ac", nar.MaxNameLength/3),
	}
	var all []byte
	for c := 1; c < 256; c++ {
		if c == '/' {
			continue
		}
		all = append(all, byte(c))
		names = append(names, "x"+string([]byte{byte(c)}))
		if c != '.' {
			names = append(names, string([]byte{byte(c)}))
		}
	}
	names = append(names, string(all))
	for i, name := range names {
		write(t, dir+"/"+name, fmt.Sprintf("file %d", i), 0o644)
	}
	check(t, os.Mkdir(dir+"/"+strings.Repeat("\n", nar.MaxNameLength), 0o755))
	write(t, dir+"/"+strings.Repeat("\n", nar.MaxNameLength)+"/"+string(all), "inside", 0o755)
}

// plantTargets makes symlinks that lead to odd places, or are long.
func plantTargets(t testing.TB, dir string) {
	check(t, os.Mkdir(dir, 0o755))
	longest := nar.MaxTargetLength
	if os.Getenv(onFileSystem) == "xfs" {
		longest = 1023 // it takes no longer ones
	}
	for i, target := range []string{
		".", "..", "/", "//", "/nix/store", "../../../../../../../../etc/shadow", "self", "\n", " ", "\xff\xfe", "a~nix~case~hack~1", "symlink", "/proc/self/fd/0", `C:\`, "a//b/./../c",
		strings.Repeat("t", longest), strings.Repeat("\x01", longest), strings.Repeat("../", longest/3), strings.Repeat("a/", longest/2),
	} {
		link(t, target, fmt.Sprintf("%s/%d", dir, i))
	}
	link(t, "self", dir+"/self")
}

// plantKinds makes empty ones of everything, executable and not.
func plantKinds(t testing.TB, dir string) {
	check(t, errors.Join(os.MkdirAll(dir+"/empty", 0o755), os.MkdirAll(dir+"/nested/empty/empty", 0o755)))
	for i := range 20 {
		mode := []os.FileMode{0o644, 0o755}[i%2]
		write(t, fmt.Sprintf("%s/empty-%d", dir, i), "", mode)
		write(t, fmt.Sprintf("%s/file-%d", dir, i), strings.Repeat("x", i), mode)
	}
	// Only what the owner may do counts.
	write(t, dir+"/group", "not executable", 0o655)
	write(t, dir+"/owner", "executable", 0o744)
}

// plantDepth nests directories as deep as a NAR may, the last of which has a file in it.
func plantDepth(t testing.TB, dir string) {
	deep := dir + strings.Repeat("/d", nar.MaxDepth-1)
	check(t, os.MkdirAll(deep, 0o755))
	write(t, deep+"/file", "at the bottom", 0o755)
	check(t, nar.Dump(io.Discard, dir))
}

// plantEntries makes a directory of very many entries, some of which are files with contents, and directories.
func plantEntries(t testing.TB, dir string) {
	check(t, os.Mkdir(dir, 0o755))
	for i := range byScale(100_000, 1_000_000) {
		name := fmt.Sprintf("%s/entry-%07d", dir, i)
		switch i % 10 {
		case 0:
			write(t, name, strconv.Itoa(i), 0o644)
		case 1:
			check(t, os.Mkdir(name, 0o755))
		default:
			link(t, "entry-0000000", name)
		}
	}
}

func changeEntries(t testing.TB, dir string) {
	check(t, os.Rename(dir+"/entry-0000100", dir+"/entry-0050000-renamed"))
	write(t, dir+"/entry-0099990", "changed", 0o755)
}

// plantSparse makes a file that is mostly a hole.
func plantSparse(t testing.TB, dir string) {
	check(t, os.Mkdir(dir, 0o755))
	size := byScale[int64](300<<20, 4<<30+5)
	write(t, dir+"/sparse", "at the beginning", 0o644)
	check(t, os.Truncate(dir+"/sparse", size))
	changeAt(t, dir+"/sparse", size-1000, "near the end")
}

func changeSparse(t testing.TB, dir string) { changeAt(t, dir+"/sparse", 150<<20, "in the middle") }

func changeAt(t testing.TB, name string, off int64, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt([]byte(text), off)
	check(t, errors.Join(err, f.Close()))
}

// deliverer brings trees into the machine's store by the units of a push, which it makes and takes one after the other.
type deliverer struct {
	t testing.TB
	// sources are the trees that are not in the store.
	sources map[storepath.Path]string
	im      pathImporter
	// base is that of the path that is imported.
	base storepath.Path
	// views are open: walking over a large tree for each of its segments would take long.
	views map[storepath.Path]*nar.View
	// wire is the size of the units that came, in bytes.
	segments, batches, wire int
}

// pathImporter is [Importer] or [closure.Importer].
type pathImporter interface {
	Import(info closure.PathInfo, nar io.Reader) error
	Wait() error
	Close() error
}

// Open implements [units.Views] for both sides.
func (d *deliverer) Open(path storepath.Path) (units.View, error) {
	if view := d.views[path]; view != nil {
		return kept{view}, nil
	}
	dir, ok := d.sources[path]
	if !ok {
		dir = path.String()
	}
	view, err := nar.OpenView(dir)
	if err != nil {
		return nil, err
	}
	d.views[path] = view
	return kept{view}, nil
}

// kept is a view that stays open.
type kept struct{ *nar.View }

func (kept) Close() error { return nil }

// forget closes all views.
func (d *deliverer) forget() {
	for path, view := range d.views {
		check(d.t, view.Close())
		delete(d.views, path)
	}
}

// Path implements [units.Sink].
func (d *deliverer) Path(_ context.Context, info storepath.Info, base storepath.Path, archive io.Reader) error {
	d.base = base
	return d.im.Import(info, archive)
}

// deliver sends a tree as a store path, as a delta where item has a base.
func (d *deliverer) deliver(item units.Item) {
	d.t.Helper()
	packer, unpacker := units.NewPacker(d), units.NewUnpacker(d.t.Context(), d, d, nil)
	defer packer.Close()
	defer unpacker.Close()
	defer d.forget()
	d.segments, d.batches, d.wire = 0, 0, 0
	for _, spec := range units.Layout([]units.Item{item}) {
		unit, err := packer.Pack(d.t.Context(), spec, units.Fastest)
		check(d.t, err)
		check(d.t, unpacker.Unit(unit.Bytes))
		if d.wire += len(unit.Bytes); spec.Items[0].Info.NarSize > units.SmallNAR {
			d.segments++
		} else {
			d.batches++
		}
		if item.Base.NarSize > 0 && unit.Delta != unit.NAR {
			d.t.Errorf("only %d bytes of %d come from the base", unit.Delta, unit.NAR)
		}
	}
	check(d.t, errors.Join(unpacker.End(), d.im.Wait()))
	delete(d.sources, item.Info.Path)
}

// source announces a tree as a store path of that name.
func (d *deliverer) source(name, dir string) storepath.Info {
	d.t.Helper()
	sum, size := dumpSum(d.t, dir)
	path := parse(d.t, storepath.EncodeBase32(sum[:20])+"-"+name)
	d.sources[path] = dir
	checkView(d.t, dir, sum)
	return storepath.Info{Path: path, NarHash: sum, NarSize: size}
}

func dumpSum(t testing.TB, dir string) (sum [sha256.Size]byte, size uint64) {
	t.Helper()
	hash := sha256.New()
	w := nar.NewWriter(hash)
	// What Dump writes, Parse must read, and write again as it was.
	r, pipe := io.Pipe()
	go func() { _ = pipe.CloseWithError(nar.Dump(pipe, dir)) }()
	check(t, errors.Join(nar.Parse(r, w), w.Close()))
	return [sha256.Size]byte(hash.Sum(nil)), w.Size()
}

// checkView compares a tree's view with what Dump writes of it.
func checkView(t testing.TB, dir string, want [sha256.Size]byte) {
	t.Helper()
	view, err := nar.OpenView(dir)
	check(t, err)
	defer view.Close()
	hash := sha256.New()
	_, err = io.CopyBuffer(hash, io.NewSectionReader(view, 0, view.Size()), make([]byte, 1<<20))
	check(t, err)
	if got := [sha256.Size]byte(hash.Sum(nil)); got != want {
		t.Fatal("the view is not what Dump writes")
	}
}

// checkStored has Nix compare a path of the store with what was sent.
func checkStored(t testing.TB, info storepath.Info) {
	t.Helper()
	nix(t, "--verify-path", info.Path.String())
	hash := sha256.New()
	check(t, run.Run(t.Context(), run.Cmd{Argv: []string{"nix-store", "--dump", info.Path.String()}, Stdout: hash}))
	if got := [sha256.Size]byte(hash.Sum(nil)); got != info.NarHash {
		t.Errorf("Nix dumps %x, sent was %x", got, info.NarHash)
	}
	if said := strings.TrimSpace(nix(t, "--query", "--hash", info.Path.String())); said != "sha256:"+storepath.EncodeBase32(info.NarHash[:]) {
		t.Errorf("Nix knows it as %s, sent was %s", said, hex.EncodeToString(info.NarHash[:]))
	}
}

// importers are who may take what a push brings.
func importers(t testing.TB) map[string]func(d *deliverer) pathImporter {
	return map[string]func(d *deliverer) pathImporter{
		"without the daemon": func(d *deliverer) pathImporter {
			return New(t.Context(), Options{Base: func(storepath.Path) storepath.Path { return d.base }})
		},
		"through the daemon": func(*deliverer) pathImporter {
			return closure.NewImporter(t.Context(), closure.ImportOptions{SkipSignatures: true})
		},
	}
}

func TestExtremeTreesArriveFreshAndAsDeltas(t *testing.T) {
	for name, tree := range extremes() {
		for how := range importers(t) {
			t.Run(name+"/"+how, func(t *testing.T) {
				if name == "entries" && how == "through the daemon" && os.Getenv(largeTests) != "1" {
					t.Skip(largeTests, "is not 1: what takes so long is the daemon's")
				}
				extremeStore(t)
				d := &deliverer{t: t, sources: map[storepath.Path]string{}, views: map[storepath.Path]*nar.View{}}
				d.im = importers(t)[how](d)
				defer func() { check(t, d.im.Close()) }()
				dir := filepath.Join(workFolder, name)
				check(t, os.Mkdir(workFolder, 0o755))
				tree.plant(t, dir)
				began := time.Now()
				old := d.source(name, dir)
				d.deliver(units.Item{Info: old})
				checkStored(t, old)
				t.Logf("fresh: %d bytes as %d in %s", old.NarSize, d.wire, time.Since(began).Round(time.Millisecond))
				if large := d.segments > 0; large != tree.segmented || large == (d.batches > 0) {
					t.Errorf("it came in %d segments and %d batches", d.segments, d.batches)
				}
				began = time.Now()
				tree.change(t, dir)
				renewed := d.source(name, dir)
				if renewed.NarHash == old.NarHash {
					t.Fatal("nothing was changed")
				}
				d.deliver(units.Item{Info: renewed, Base: old, Refs: map[string]string{old.Path.Hash(): renewed.Path.Hash()}})
				checkStored(t, renewed)
				t.Logf("as a delta: %d bytes as %d in %s", renewed.NarSize, d.wire, time.Since(began).Round(time.Millisecond))
				if d.wire > 100_000 {
					t.Errorf("the delta has %d bytes", d.wire)
				}
				checkStored(t, old)
			})
		}
	}
}

// workFolder is where trees are made: in the file system of the test's own store.
const workFolder = "/nix/trees"

// extremeStore is a machineStore with room for the trees, in memory: the largest take 9 GB.
func extremeStore(t testing.TB) {
	t.Helper()
	machineStore(t, "mode=0755,nr_inodes=0,size=90%")
}
