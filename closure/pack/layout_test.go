package pack

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// sizes makes items of the given number that refer to some before them; a tenth is large.
func sizes(w world, count int) []Item {
	var items []Item
	for i := range count {
		info := storepath.Info{Path: w.path(fmt.Sprintf("path-%d", i)), NarSize: uint64(200 + w.ExpFloat64()*60_000)}
		if w.IntN(10) == 0 {
			info.NarSize = uint64(w.Int64N(40 << 20))
		}
		for range min(i, w.IntN(6)) {
			info.References = append(info.References, items[w.IntN(i)].Info.Path)
		}
		items = append(items, Item{Info: info})
	}
	return items
}

func TestALayoutHasEachPathOnceAfterItsReferences(t *testing.T) {
	for seed := range uint64(20) {
		items := sizes(newWorld(seed), 500)
		came := make(map[storepath.Path]bool)
		nar := uint64(0)
		for _, spec := range Layout(items) {
			nar += spec.NAR()
			for _, item := range spec.Items {
				for _, ref := range item.Info.References {
					if !came[ref] {
						t.Fatalf("seed %d: %q comes before %q", seed, item.Info.Path, ref)
					}
				}
				if came[item.Info.Path] != (spec.Segment > 0) {
					t.Fatalf("seed %d: %q comes twice", seed, item.Info.Path)
				}
				came[item.Info.Path] = true
			}
			if err := new(Packer).prepare(spec, Default); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		want := uint64(0)
		for _, item := range items {
			want += item.Info.NarSize
		}
		if nar != want || len(came) != len(items) {
			t.Errorf("seed %d: %d bytes and %d paths, not %d and %d", seed, nar, len(came), want, len(items))
		}
	}
}

func TestTwoHostsThatMissAlmostTheSameShareMostUnits(t *testing.T) {
	w := newWorld(7)
	var items []Item
	for _, item := range sizes(w, 4000) {
		if !item.large() {
			items = append(items, item)
		}
	}
	alone, with := make(map[[32]byte]bool), make(map[[32]byte]bool)
	all := Layout(items)
	for _, spec := range all {
		keys := spec.Keys()
		alone[keys.At(Default)], with[keys.At(Best)] = true, true
	}
	for range 10 {
		at := w.IntN(len(items))
		other := slices.Delete(slices.Clone(items), at, at+1)
		shared, sharedPast := 0, 0
		specs := Layout(other)
		for _, spec := range specs {
			keys := spec.Keys()
			if alone[keys.At(Default)] {
				shared++
			}
			if with[keys.At(Best)] {
				sharedPast++
			}
		}
		// The unit behind one that changed has another past.
		if shared < len(specs)-3 || sharedPast < shared-3 {
			t.Errorf("without path %d, %d of %d units are the same, and %d with their past", at, shared, len(specs), sharedPast)
		}
	}
	if len(all) < 20 {
		t.Errorf("%d units", len(all))
	}
}

func TestManyTinyPathsAreWorkForSeveral(t *testing.T) {
	w := newWorld(11)
	items := make([]Item, 1500)
	for i := range items {
		path := w.path("unit-some.service")
		items[i] = Item{Info: storepath.Info{Path: path, NarSize: 500}, Base: storepath.Info{Path: w.path("unit-some.service"), NarSize: 500}}
	}
	specs := Layout(items)
	for _, spec := range specs {
		if len(spec.Items) > batchBased {
			t.Errorf("%d paths with a base in one batch", len(spec.Items))
		}
	}
	if len(specs) > 40 {
		t.Errorf("%d batches for %d paths", len(specs), len(items))
	}
}

func TestABatchEndsBeforeALargePathThatRefersToIt(t *testing.T) {
	w := newWorld(3)
	small := Item{Info: storepath.Info{Path: w.path("small"), NarSize: 500}}
	other := Item{Info: storepath.Info{Path: w.path("other"), NarSize: 5 << 20}}
	large := Item{Info: storepath.Info{Path: w.path("large"), NarSize: SegmentSize + 1, References: []storepath.Path{small.Info.Path}}}
	tail := Item{Info: storepath.Info{Path: w.path("tail"), NarSize: 500}}
	var order []string
	for _, spec := range Layout([]Item{small, other, large, tail}) {
		var names []string
		for _, item := range spec.Items {
			names = append(names, item.Info.Path.Name())
		}
		order = append(order, fmt.Sprintf("%s %d", strings.Join(names, "+"), spec.Segment))
	}
	if want := []string{"other 0", "small 0", "large 0", "large 1", "tail 0"}; !slices.Equal(order, want) {
		t.Errorf("%q, not %q", order, want)
	}
}

func TestBatchesOfManyNamesAreCut(t *testing.T) {
	w := newWorld(5)
	var many []storepath.Path
	for range 12000 {
		many = append(many, w.path("reference"))
	}
	var items []Item
	for i := range 16 {
		items = append(items, Item{Info: storepath.Info{Path: w.path("list"), NarSize: 300, References: many[i*700 : i*700+1000]}})
	}
	if specs := Layout(items); len(specs) < 2 {
		t.Errorf("%d units for %d references", len(specs), 16_000)
	}
}

func TestAKeyIsEverythingThatTheBytesDependOn(t *testing.T) {
	w := newWorld(4)
	path, base, ref := w.path("path"), w.path("base"), w.path("ref")
	spec := func() Spec {
		return Spec{Items: []Item{{
			Info: storepath.Info{Path: path, NarSize: 500, References: []storepath.Path{ref}, Deriver: ref, Signatures: []string{"key:abc"}, CA: "fixed:x"},
			Base: storepath.Info{Path: base, NarSize: 500}, Refs: map[string]string{base.Hash(): path.Hash()},
		}}}
	}
	one, other := spec(), spec()
	if one.Keys() != other.Keys() {
		t.Error("equal specs have two keys")
	}
	same := spec()
	same.Items[0].Base.Signatures = []string{"key:abc"}
	if same.Keys() != one.Keys() {
		t.Error("a signature of the base changes the key")
	}
	keys := map[[32]byte]string{one.Keys().At(Default): "nothing", one.Keys().At(Best): "nothing, with a past"}
	for name, change := range map[string]func(*Spec, *Item){
		"segment":        func(s *Spec, _ *Item) { s.Segment = 1 },
		"item":           func(s *Spec, _ *Item) { s.Items = append(s.Items, Item{}) },
		"path":           func(_ *Spec, i *Item) { i.Info.Path = ref },
		"hash":           func(_ *Spec, i *Item) { i.Info.NarHash[0]++ },
		"size":           func(_ *Spec, i *Item) { i.Info.NarSize++ },
		"references":     func(_ *Spec, i *Item) { i.Info.References = nil },
		"deriver":        func(_ *Spec, i *Item) { i.Info.Deriver = base },
		"signatures":     func(_ *Spec, i *Item) { i.Info.Signatures[0] += "d" },
		"address":        func(_ *Spec, i *Item) { i.Info.CA = "" },
		"base":           func(_ *Spec, i *Item) { i.Base.Path = ref },
		"base hash":      func(_ *Spec, i *Item) { i.Base.NarHash[0]++ },
		"base size":      func(_ *Spec, i *Item) { i.Base.NarSize++ },
		"refs":           func(_ *Spec, i *Item) { i.Refs[ref.Hash()] = base.Hash() },
		"copies":         func(_ *Spec, i *Item) { i.Copies = []delta.Copy{{Target: 1, Base: 2, Size: 3}} },
		"copies' places": func(_ *Spec, i *Item) { i.Copies = []delta.Copy{{Target: 2, Base: 1, Size: 3}} },
		"no refs":        func(_ *Spec, i *Item) { i.Refs = nil },
	} {
		changed := spec()
		change(&changed, &changed.Items[0])
		for _, level := range []Level{Default, Best} {
			key := changed.Keys().At(level)
			if other, twice := keys[key]; twice {
				t.Errorf("%v: another %s has the key of another %s", level, name, other)
			}
			keys[key] = name
		}
	}
}

func TestTheKeyOfAUnitWithAPastHasWhatThePastDependsOn(t *testing.T) {
	w := newWorld(4)
	path, before, ref := w.path("path"), w.path("before"), w.path("ref")
	spec := func() Spec {
		past := Past{Items: []Item{{Info: storepath.Info{Path: before, NarSize: 500}, Base: storepath.Info{Path: ref, NarSize: 500}}}}
		return Spec{Items: []Item{{Info: storepath.Info{Path: path, NarSize: 500}}}, Past: past}
	}
	one := spec().Keys()
	keys := map[[32]byte]string{one.At(Better): "nothing"}
	for name, change := range map[string]func(*Past){
		"nothing before": func(p *Past) { *p = Past{} },
		"segment":        func(p *Past) { p.Segment = 1 },
		"path":           func(p *Past) { p.Items[0].Info.Path = ref },
		"hash":           func(p *Past) { p.Items[0].Info.NarHash[0]++ },
		"size":           func(p *Past) { p.Items[0].Info.NarSize++ },
		"paths":          func(p *Past) { p.Items = append(p.Items, p.Items[0]) },
	} {
		changed := spec()
		change(&changed.Past)
		key := changed.Keys()
		if other, twice := keys[key.At(Better)]; twice {
			t.Errorf("another %s has the key of another %s", name, other)
		}
		keys[key.At(Better)] = name
		if key.At(Default) != one.At(Default) {
			t.Errorf("another %s changes the key of a level that looks at no past", name)
		}
	}
	other := spec()
	other.Past.Items[0].Base.Path, other.Past.Items[0].Info.Signatures = path, []string{"key:abc"}
	if other.Keys() != one {
		t.Error("how the unit before is described changes the key")
	}
}

func TestAUnitsPastIsTheUnitBeforeItAndNothingMore(t *testing.T) {
	specs := Layout(sizes(newWorld(8), 400))
	for n, spec := range specs {
		if n == 0 {
			if spec.Past.Items != nil {
				t.Error("the first unit has a past")
			}
			continue
		}
		before := specs[n-1]
		if past := spec.Past.spec(); past.NAR() != before.NAR() || past.Segment != before.Segment || past.Items[0].Info.Path != before.Items[0].Info.Path || past.Past.Items != nil {
			t.Errorf("unit %d: %d bytes of %q as its past", n, past.NAR(), past.Items[0].Info.Path)
		}
	}
}

func TestASpecThatNoLayoutMakesIsRefused(t *testing.T) {
	w := newWorld(6)
	item := func(size uint64) Item { return Item{Info: storepath.Info{Path: w.path("path"), NarSize: size}} }
	for name, spec := range map[string]Spec{
		"nothing":              {},
		"negative segment":     {Items: []Item{item(2 * SegmentSize)}, Segment: -1},
		"segment after last":   {Items: []Item{item(2 * SegmentSize)}, Segment: 2},
		"segment of a small":   {Items: []Item{item(5)}, Segment: 1},
		"large path in batch":  {Items: []Item{item(5), item(2 * SegmentSize)}},
		"too many bytes":       {Items: slices.Repeat([]Item{item(SmallNAR)}, 3)},
		"too many small paths": {Items: slices.Repeat([]Item{item(5)}, maxBatch+1)},
	} {
		if err := new(Packer).prepare(spec, Default); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	impossible := Spec{Items: []Item{item(5)}, Past: Past{Items: []Item{item(5)}, Segment: 1}}
	if err := new(Packer).prepare(impossible, Default); err == nil {
		t.Error("a past that no layout makes: no error")
	}
	if err := new(Packer).prepare(Spec{Items: []Item{item(5)}}, levels); err == nil || !strings.Contains(err.Error(), "level 5") {
		t.Errorf("an unknown level: %v", err)
	}
}

// shuffled returns a permutation.
func shuffled(count int) []int { return rand.New(rand.NewPCG(1, 2)).Perm(count) }
