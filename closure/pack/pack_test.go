package pack

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/storepath"
)

var comparePaths = cmp.Comparer(func(a, b storepath.Path) bool { return a == b })

// checkArrived says whether a sink got exactly what was packed, references first.
func checkArrived(t *testing.T, items []Item, got *remember) {
	t.Helper()
	want := make(map[storepath.Path]storepath.Info)
	for _, item := range items {
		want[item.Info.Path] = item.Info
	}
	came := make(map[storepath.Path]bool)
	for _, info := range got.infos {
		for _, ref := range info.References {
			if _, sent := want[ref]; sent && ref != info.Path && !came[ref] {
				t.Errorf("%q came before %q, to which it refers", info.Path, ref)
			}
		}
		came[info.Path] = true
		if diff := cmp.Diff(want[info.Path], info, comparePaths); diff != "" {
			t.Errorf("%q: %s", info.Path, diff)
		}
	}
	if len(got.infos) != len(items) {
		t.Errorf("%d paths arrived, not %d", len(got.infos), len(items))
	}
	if got.open != 0 {
		t.Errorf("%d views are open", got.open)
	}
}

// mixed makes a store of small and large paths.
func mixed(w world) (*store, []storepath.Info) {
	s, infos := tiny(w, 60, 3000)
	for i, size := range []int{SmallNAR, SmallNAR + 1, 3 << 20, SegmentSize + 5000, 2*SegmentSize + 8} {
		refs := []storepath.Path{infos[i].Path, infos[len(infos)-1].Path}
		infos = append(infos, s.add(w.path("large"), file(w.text(size-112, refs)), refs...))
	}
	return s, infos
}

func TestWhatIsPackedArrives(t *testing.T) {
	old, infos := mixed(newWorld(1))
	for level := range levels {
		got := newRemember()
		if err := unpackAll(got, got, packAll(t, old, plain(infos), level)); err != nil {
			t.Fatal(err)
		}
		checkArrived(t, plain(infos), got)
	}
}

func TestARebuildIsNothingButHashes(t *testing.T) {
	w := newWorld(2)
	old, infos := mixed(w)
	renewed, items := rebuilt(w, old, infos)
	checkRebuild(t, renewed, old, items)
}

// checkRebuild packs rebuilt paths, unpacks them where the old ones are, and checks that hardly more than hashes was sent.
func checkRebuild(t *testing.T, views Views, old *store, items []Item) {
	t.Helper()
	units := packAll(t, views, items, Default)
	got := newRemember()
	if err := unpackAll(old, got, units); err != nil {
		t.Fatal(err)
	}
	checkArrived(t, items, got)
	size, nars, deltas := sumOf(units)
	if size > 200*len(items) || deltas < nars-64 {
		t.Errorf("%d bytes for %d paths, %d of %d bytes from bases", size, len(items), deltas, nars)
	}
}

func TestBytesDependOnSpecAndLevelAlone(t *testing.T) {
	w := newWorld(8)
	old, infos := mixed(w)
	renewed, items := rebuilt(w, old, infos)
	for i := range items {
		// Some have a base that is only similar.
		if i%3 == 0 {
			items[i].Base = infos[max(0, i-1)]
		}
	}
	specs := Layout(items)
	for level := range levels {
		one, other := NewPacker(renewed), NewPacker(renewed)
		made := make([][]byte, len(specs))
		for i, spec := range specs {
			made[i] = mustPack(t, one, spec, level).Bytes
		}
		for n, i := range shuffled(len(specs)) {
			if n == 3 {
				mustPack(t, other, specs[0], (level+1)%levels)
			}
			if got := mustPack(t, other, specs[i], level); !bytes.Equal(got.Bytes, made[i]) {
				t.Errorf("%v: unit %d depends on what was packed before", level, i)
			}
		}
		one.Close()
		other.Close()
	}
}

func mustPack(t testing.TB, p *Packer, spec Spec, level Level) Unit {
	t.Helper()
	unit, err := p.Pack(context.Background(), spec, level)
	if err != nil {
		t.Fatal(err)
	}
	return unit
}

func TestADeltaFindsWhatMoved(t *testing.T) {
	w := newWorld(9)
	noise := make([]byte, 3*SegmentSize)
	w.fill(noise)
	s := newStore()
	base := s.add(w.path("program-1"), file(noise))
	for name, contents := range map[string][]byte{
		"inserted":  slices.Concat(noise[:5<<20], []byte("inserted"), noise[5<<20:]),
		"cut":       noise[2<<20:],
		"moved far": slices.Concat(noise[12<<20:], noise[:12<<20]),
		"shorter":   noise[:11<<20],
		"patched":   slices.Concat(noise[:20<<20], []byte("patched!"), noise[20<<20+8:]),
	} {
		info := s.add(w.path("program-2"), file(contents))
		items := []Item{{Info: info, Base: base}}
		level := Fastest
		if name == "moved far" { // which takes time that fast links do not give
			if _, _, deltas := sumOf(packAll(t, s, items, Default)); deltas > 0 {
				t.Errorf("%s: %d bytes from the base over a fast link", name, deltas)
			}
			level = Better
		}
		units := packAll(t, s, items, level)
		got := newRemember()
		if err := unpackAll(s, got, units); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		checkArrived(t, items, got)
		if size, nars, deltas := sumOf(units); size > 2000 || deltas < nars*9/10 {
			t.Errorf("%s: %d bytes, %d of %d from the base", name, size, deltas, nars)
		}
	}
}

func TestABaseThatDoesNotHelpIsLeftOut(t *testing.T) {
	w := newWorld(10)
	s := newStore()
	noise := make([]byte, 10<<20)
	w.fill(noise)
	other := s.add(w.path("other"), file(noise))
	gone := storepath.Info{Path: w.path("gone"), NarSize: 500}
	changed := other
	changed.NarSize++
	for _, base := range []storepath.Info{other, gone, changed} {
		for _, size := range []int{100, 3000, SmallNAR, 9 << 20} {
			info := s.add(w.path("new"), file(w.text(size, nil)))
			with := packAll(t, s, []Item{{Info: info, Base: base}}, Default)
			without := packAll(t, s, []Item{{Info: info}}, Default)
			got, nars, deltas := sumOf(with)
			want, _, _ := sumOf(without)
			if deltas != 0 && size < 9<<20 || deltas == nars || got > want+want/1000+100 {
				t.Errorf("%d bytes with the base %q, %d without, %d from the base", got, base.Path, want, deltas)
			}
		}
	}
}

func TestAPathThatCannotBeReadIsNamed(t *testing.T) {
	w := newWorld(11)
	s := newStore()
	small, large := s.add(w.path("small"), file(w.text(500, nil))), s.add(w.path("large"), file(w.text(5<<20, nil)))
	p := NewPacker(s)
	defer p.Close()
	for _, info := range []storepath.Info{small, large} {
		changed, gone := info, info
		changed.NarSize++
		gone.Path = w.path("gone")
		for _, bad := range []storepath.Info{changed, gone} {
			_, err := p.Pack(context.Background(), Spec{Items: []Item{{Info: bad}}}, Default)
			var read *ReadError
			if !errors.As(err, &read) || read.Path != bad.Path || !strings.Contains(err.Error(), bad.Path.String()) {
				t.Errorf("%v", err)
			}
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("enough")
		cancel(cause)
		if _, err := p.Pack(ctx, Spec{Items: []Item{{Info: info}}}, Default); !errors.Is(err, cause) {
			t.Errorf("after the context's end: %v", err)
		}
	}
}
