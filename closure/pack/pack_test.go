package pack

import (
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
	units := packAll(t, renewed, items, Default)
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
