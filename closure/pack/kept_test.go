package pack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// diskSpool opens a file without a name.
func diskSpool() (Spool, error) {
	file, err := os.CreateTemp("", "fleet-pack-test-")
	if err != nil {
		return nil, err
	}
	return file, os.Remove(file.Name())
}

// unpackWith hands units to a sink, with a spool.
func unpackWith(views Views, sink Sink, spool func() (Spool, error), units []Unit) error {
	u := NewUnpacker(context.Background(), views, sink, spool)
	defer u.Close()
	for _, unit := range units {
		if err := u.Unit(unit.Bytes); err != nil {
			return err
		}
	}
	return u.End()
}

// twice is what paths are made of that have the same pieces: noise, which nothing makes shorter.
type twice struct {
	world
	*store
}

func newTwice(seed uint64) twice { return twice{newWorld(seed), newStore()} }

func (w twice) noise(size int) []byte {
	noise := make([]byte, size)
	w.fill(noise)
	return noise
}

// own is a path that has pieces twice, and says so.
func (w twice) own(name string, pieces ...[]byte) Item {
	contents := slices.Concat(pieces...)
	archive := file(contents)
	lead := int64(bytes.Index(archive, contents[:64]))
	item := Item{Info: w.add(w.path(name), archive)}
	item.Base = item.Info
	at, first := lead, map[*byte]int64{}
	for _, piece := range pieces {
		if from, again := first[&piece[0]]; again {
			item.Copies = append(item.Copies, delta.Copy{Target: at, Base: from, Size: int64(len(piece))})
		} else {
			first[&piece[0]] = at
		}
		at += int64(len(piece))
	}
	return item
}

// of is a path of new bytes and of a piece of another one, which is kept.
func (w twice) of(base *Item, from, size int, fresh []byte, refs ...storepath.Path) Item {
	piece := w.nars[base.Info.Path][from : from+size]
	archive := file(slices.Concat(fresh, piece))
	base.Keep = true
	return Item{
		Info: w.add(w.path("of-"+base.Info.Path.Name()), archive, refs...), Base: base.Info,
		Copies: []delta.Copy{{Target: int64(bytes.Index(archive, piece)), Base: int64(from), Size: int64(size)}},
	}
}

// crosses is how many bytes a path of so much noise takes, with all that is said of it.
func crosses(noise int) int { return noise + noise/50 + 4<<10 }

func TestWhatAPathHasTwiceCrossesOnce(t *testing.T) {
	const mib = 1 << 20
	for rule, tt := range map[string]struct {
		pieces []int // sizes; a negative one is the piece of that size again
		keep   bool
		want   int
	}{
		"within a small path":                        {[]int{mib, 20_000, -mib}, false, mib + 20_000},
		"within a segment":                           {[]int{3 * mib, 40_000, -3 * mib}, false, 3*mib + 40_000},
		"side by side":                               {[]int{2 * mib, -2 * mib, -2 * mib}, false, 2 * mib},
		"as near as the distance":                    {[]int{SelfDistance, -SelfDistance, -SelfDistance, -SelfDistance, SelfDistance + 1, -SelfDistance - 1, -SelfDistance}, false, 2*SelfDistance + 1},
		"in another segment":                         {[]int{5 * mib, 10 * mib, -5 * mib}, true, 15 * mib},
		"across the edges of segments":               {[]int{7 * mib, 6 * mib, -7 * mib, -6 * mib}, true, 13 * mib},
		"a whole segment and more":                   {[]int{20 * mib, -20 * mib}, true, 20 * mib},
		"not from another segment that is not kept":  {[]int{5 * mib, 10 * mib, -5 * mib}, false, 20 * mib},
		"what lies less than the distance before it": {[]int{200_000, -200_000, -200_000, -200_000, -200_000}, false, 400_000},
	} {
		t.Run(rule, func(t *testing.T) {
			w := newTwice(40)
			known := map[int][]byte{}
			var pieces [][]byte
			for _, size := range tt.pieces {
				if size > 0 {
					known[size] = w.noise(size)
				}
				pieces = append(pieces, known[max(size, -size)])
			}
			item := w.own("twice", pieces...)
			item.Keep = tt.keep
			for level := Stored; level <= Default; level++ {
				units := packAll(t, w, []Item{item}, level)
				got := newRemember()
				if err := unpackAll(newStore(), got, units); err != nil {
					t.Fatalf("%v: %v", level, err)
				}
				checkArrived(t, []Item{item}, got)
				if base := got.bases[item.Info.Path]; !base.IsZero() {
					t.Errorf("the sink is told of the base %q, which it does not have", base)
				}
				if sent, _, _ := sumOf(units); level == Stored && (sent < tt.want || sent > crosses(tt.want)) || sent > crosses(tt.want) {
					t.Errorf("%v: %d bytes, not about %d", level, sent, tt.want)
				}
			}
		})
	}
}

// keptPush is a push of a small path and a large one that are kept, and of paths that are made of them.
func keptPush() (*store, []Item) {
	w := newTwice(41)
	small := Item{Info: w.add(w.path("small"), file(w.noise(3<<20)))}
	large := Item{Info: w.add(w.path("large"), file(w.noise(9<<20)))}
	items := []Item{small, large}
	for _, size := range []int{100_000, 2 << 20} {
		items = append(items, w.of(&small, 1000, size, w.noise(50_000)), w.of(&large, 8<<20-size/2, size, w.noise(50_000)))
	}
	items = append(items, w.of(&large, 0, 9<<20, w.noise(5<<20)), w.of(&small, 500, 3<<20-500, w.noise(4<<20)))
	items[0], items[1] = small, large
	return w.store, items
}

func TestPathsAreMadeOfPathsThatCameBefore(t *testing.T) {
	s, items := keptPush()
	for level := range levels {
		units := packAll(t, s, items, level)
		got := newRemember()
		if err := unpackAll(newStore(), got, units); err != nil {
			t.Fatalf("%v: %v", level, err)
		}
		checkArrived(t, items, got)
		for path, base := range got.bases {
			if !base.IsZero() {
				t.Errorf("%v: the sink is told of the base %q of %q", level, base, path)
			}
		}
		const fresh = 3<<20 + 9<<20 + 4*50_000 + 5<<20 + 4<<20
		if sent, _, _ := sumOf(units); sent > crosses(fresh) {
			t.Errorf("%v: %d bytes, of which %d are new", level, sent, fresh)
		}
	}
}

func TestALayoutPutsBasesOfThePushFirst(t *testing.T) {
	w := newTwice(42)
	small := Item{Info: w.add(w.path("small"), file(w.noise(1000)))}
	other := Item{Info: w.add(w.path("other"), file(w.noise(1000)))}
	large := w.of(&small, 100, 500, w.noise(5<<20))
	specs := Layout([]Item{small, large, other})
	if len(specs) != 3 || specs[0].Items[0].Info.Path != small.Info.Path || specs[1].Items[0].Info.Path != large.Info.Path {
		t.Errorf("%d units, the first of %q", len(specs), specs[0].Items[0].Info.Path)
	}
}

func TestKeysSayWhetherAPathIsKept(t *testing.T) {
	s, items := keptPush()
	for _, spec := range Layout(items[:2]) {
		other := Spec{Items: slices.Clone(spec.Items), Segment: spec.Segment}
		other.Items[0].Keep = false
		same := bytes.Equal(packAll1(t, s, spec), packAll1(t, s, other))
		if key := spec.key() == other.key(); key && !same {
			t.Errorf("segment %d of %q: one key for two units", spec.Segment, spec.Items[0].Info.Path)
		}
	}
}

func packAll1(t *testing.T, s *store, spec Spec) []byte {
	p := NewPacker(s)
	defer p.Close()
	spec.Past = Past{}
	return mustPack(t, p, spec, Fastest).Bytes
}

// full is a spool on a disk with little room.
type full struct {
	Spool
	left   int64
	closed int
}

var errFull = errors.New("no space left on device")

func (f *full) WriteAt(data []byte, off int64) (int, error) {
	if off+int64(len(data)) > f.left {
		return 0, errFull
	}
	return f.Spool.WriteAt(data, off)
}

func (f *full) Close() error {
	f.closed++
	return f.Spool.Close()
}

func TestAFullSpoolHoldsUpThoseAloneThatNeedIt(t *testing.T) {
	s, items := keptPush()
	units := packAll(t, s, items, Fastest)
	for _, left := range []int64{0, 1 << 20, 4 << 20, 1 << 40} {
		spool := &full{left: left}
		open := func() (Spool, error) {
			var err error
			spool.Spool, err = diskSpool()
			return spool, err
		}
		got := newRemember()
		err := unpackWith(newStore(), got, open, units)
		var failed *SpoolError
		var path *PathError
		switch {
		case left == 1<<40 && err != nil:
			t.Errorf("with room: %v", err)
		case left < 1<<40 && (!errors.As(err, &failed) || !errors.Is(err, errFull) || !errors.As(err, &path) || !strings.HasPrefix(path.Path.Name(), "of-")):
			t.Errorf("with %d bytes: %v", left, err)
		case len(got.infos) < 1:
			t.Errorf("with %d bytes: nothing came", left)
		}
		if spool.closed != 1 {
			t.Errorf("with %d bytes: the spool was closed %d times", left, spool.closed)
		}
	}
	var failed *SpoolError
	if err := unpackWith(newStore(), newRemember(), nil, units); !errors.As(err, &failed) {
		t.Errorf("without a spool: %v", err)
	}
	// Nobody needs a spool for what is within one unit.
	w := newTwice(43)
	piece := w.noise(1 << 20)
	item := w.own("twice", piece, piece)
	if err := unpackWith(newStore(), newRemember(), nil, packAll(t, w, []Item{item}, Fastest)); err != nil {
		t.Errorf("within a unit, without a spool: %v", err)
	}
}

// Whoever makes units may say what he likes of what is kept: nothing is read that has not come, and no more is kept than the format allows.
func TestWhatIsSaidOfKeptPathsIsNotBelieved(t *testing.T) {
	w := newTwice(44)
	noise := w.noise(9 << 20)
	large := Item{Info: w.add(w.path("large"), file(noise)), Keep: true}
	itself := func(item Item, copies ...delta.Copy) Item {
		item.Base, item.Copies = item.Info, copies
		return item
	}
	small := Item{Info: w.add(w.path("small"), file(noise[:1<<20]))}
	later := Item{Info: w.add(w.path("later"), file(noise[:1<<20])), Keep: true}
	forged := func(change func(*entry), items ...Item) []Unit {
		var entries []entry
		var bodies []byte
		for _, item := range items {
			e := newEntry(item)
			change(&e)
			entries = append(entries, e)
			if e.body == bodyPlain {
				bodies = append(bodies, w.nars[item.Info.Path]...)
			}
		}
		raw, text, err := writeHead(entries)
		if err != nil {
			t.Fatal(err)
		}
		return []Unit{said{kindBatch, raw, append([]byte{0, 0}, text...), bodies}.unit(t)}
	}
	whole := delta.Copy{Size: int64(small.Info.NarSize)}
	huge := func(e *entry) { e.info.NarSize = MaxKept + 1 }
	var many []Item
	for range MaxKeptPaths/2 + 1 {
		many = append(many, Item{Info: w.add(w.path("p"), nil), Keep: true})
	}
	half := len(many) - 1
	forge := func(e *entry) {}
	same := func(e *entry) {
		if !e.base.IsZero() {
			e.body = bodySame
		}
	}
	first := func(e entry) []Unit {
		raw, text, err := writeHead([]entry{e})
		if err != nil {
			t.Fatal(err)
		}
		return []Unit{said{kindFirst, raw, append([]byte{0, 0}, text...), []byte{0}}.unit(t)}
	}
	big := newEntry(large)
	huge(&big)
	ownSame := newEntry(itself(large))
	ownSame.body = bodySame
	for name, test := range map[string]struct {
		units []Unit
		says  string
	}{
		"a small path is itself":         {forged(same, itself(small, whole)), errNotCome.Error()},
		"a segment is itself":            {first(ownSame), errNotCome.Error()},
		"a path is one that comes later": {forged(same, Item{Info: small.Info, Base: later.Info}, later), errNotCome.Error()},
		"more than may be kept":          {first(big), "more than the format allows"},
		"more paths than may be kept":    {slices.Concat(forged(forge, many[:half]...), forged(forge, renamed(w, many[:half])...), forged(forge, many[half:]...)), "more than the format allows"},
	} {
		err := unpackAll(newStore(), newRemember(), test.units)
		var format *FormatError
		var path *PathError
		if err == nil || !strings.Contains(err.Error(), test.says) || !errors.As(err, &format) && !errors.As(err, &path) {
			t.Errorf("%s: %v, not %q", name, err, test.says)
		}
	}
}

func renamed(w twice, items []Item) []Item {
	items = slices.Clone(items)
	for i := range items {
		items[i].Info = w.add(w.path("q"), nil)
	}
	return items
}

func TestACopyWithinAPathReadsOnlyWhatHasCome(t *testing.T) {
	u := &Unpacker{nar: []byte("before.own")}
	k := &keeper{open: diskSpool}
	info := storepath.Info{Path: newWorld(45).path("large"), NarSize: 20}
	if err := k.announce(info); err != nil {
		t.Fatal(err)
	}
	defer k.close()
	k.add(info.Path, []byte("0123456789"))
	earlier := k.paths[info.Path]
	for _, tt := range []struct {
		off, size int64
		want      string
	}{
		{0, 10, "0123456789"}, {2, 10, "23456789ow"}, {10, 3, "own"}, {12, 1, "n"}, {0, 13, "0123456789own"},
		{12, 2, ""}, {13, 1, ""}, {20, 1, ""}, {-1, 1, ""}, {1 << 62, 1, ""},
	} {
		data := make([]byte, tt.size)
		n, err := ownView{u, earlier, 20, 10, 7}.ReadAt(data, tt.off)
		if tt.want == "" && !errors.Is(err, errNotCome) || tt.want != "" && (err != nil || string(data[:n]) != tt.want) {
			t.Errorf("%d bytes at %d: %q, %v", tt.size, tt.off, data[:n], err)
		}
		if _, err := (ownView{u, nil, 20, 10, 7}).ReadAt(data, tt.off); (err == nil) != (tt.want != "" && tt.off >= 10) {
			t.Errorf("%d bytes at %d, where nothing is kept: %v", tt.size, tt.off, err)
		}
	}
	var _ io.ReaderAt = earlier
}

func TestKeptPathsTakeNoMemory(t *testing.T) {
	w := newTwice(46)
	a, b := w.noise(9<<20), w.noise(7<<20)
	own := w.own("own", a, b, a, b, a)
	own.Keep = true
	items := []Item{own, w.of(&own, 5<<20, 30<<20, w.noise(1000))}
	items[0] = own
	units := packAll(t, w, items, Fastest)
	if sent, nars, _ := sumOf(units); uint64(sent) > nars/3 {
		t.Fatalf("%d bytes for %d", sent, nars)
	}
	if allocated := allocatedUnpacking(t, newStore(), units); allocated > 24<<20 {
		t.Errorf("%d bytes were allocated", allocated)
	}
}
