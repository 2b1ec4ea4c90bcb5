package pack

import (
	"bytes"
	"slices"
	"testing"

	"fleet/closure/chunk"
	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// signed gives items copies in place of what their bases hold, by signatures of these.
func signed(t *testing.T, have, renewed *store, items []Item) []Item {
	t.Helper()
	cutter := chunk.NewCutter(chunk.Key{1})
	items = slices.Clone(items)
	for i, item := range items {
		refs, err := delta.NewRefs(item.Refs)
		if err != nil {
			t.Fatal(err)
		}
		base, target := have.nars[item.Base.Path], renewed.nars[item.Info.Path]
		var text []byte
		view := delta.NewView(bytes.NewReader(base), refs)
		err = cutter.Cut(view, view.Size(), func(c chunk.Chunk) error { text = chunk.Append(text, c); return nil })
		if err != nil {
			t.Fatal(err)
		}
		signature, err := chunk.Read(bytes.NewReader(text), view.Size())
		if err != nil {
			t.Fatal(err)
		}
		var chunks []chunk.Chunk
		err = cutter.Cut(bytes.NewReader(target), int64(len(target)), func(c chunk.Chunk) error { chunks = append(chunks, c); return nil })
		if err != nil {
			t.Fatal(err)
		}
		items[i].Copies = signature.Match(chunks)
		if len(items[i].Copies) == 0 {
			items[i].Base, items[i].Refs = storepath.Info{}, nil
		}
	}
	return items
}

// without is a store that lacks what another one has.
func without(s, other *store) *store {
	rest := newStore()
	for path, data := range s.nars {
		if _, there := other.nars[path]; !there {
			rest.nars[path] = data
		}
	}
	return rest
}

func TestARebuildIsNothingButHashesWithoutTheBases(t *testing.T) {
	w := newWorld(2)
	old, infos := mixed(w)
	renewed, items := rebuilt(w, old, infos)
	items = signed(t, old, renewed, items)
	checkRebuild(t, without(renewed, old), old, items)
}

func TestWhatChangedAndMovedIsFoundWithoutTheBase(t *testing.T) {
	w := newWorld(9)
	for _, total := range []int{3 << 20, 3 * SegmentSize} {
		noise := make([]byte, total)
		w.fill(noise)
		old, renewed := newStore(), newStore()
		base := old.add(w.path("program-1"), file(noise))
		for name, contents := range map[string][]byte{
			"inserted": slices.Concat(noise[:total/5], []byte("inserted"), noise[total/5:]),
			"cut":      noise[total/12:],
			"moved":    slices.Concat(noise[total/2:], noise[:total/2]),
			"shorter":  noise[:total/2],
			"patched":  slices.Concat(noise[:total/7], []byte("patched!"), noise[total/7+8:]),
		} {
			info := renewed.add(w.path("program-2"), file(contents))
			items := signed(t, old, renewed, []Item{{Info: info, Base: base}})
			units := packAll(t, renewed, items, Fastest)
			got := newRemember()
			if err := unpackAll(old, got, units); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			checkArrived(t, items, got)
			if size, nars, _ := sumOf(units); size > 5*chunk.MaxSize || uint64(size) > nars/4 {
				t.Errorf("%s of %d: %d bytes for %d", name, total, size, nars)
			}
		}
	}
}

func TestWrongCopiesMakeADeltaThatIsRefused(t *testing.T) {
	w := newWorld(3)
	for _, total := range []int{100_000, 2 * SegmentSize} {
		noise := make([]byte, total)
		w.fill(noise)
		old, renewed := newStore(), newStore()
		base := old.add(w.path("old"), file(noise))
		slices.Reverse(noise)
		info := renewed.add(w.path("new"), file(noise))
		for name, copies := range map[string][]delta.Copy{
			"partly":         {{Target: 10, Base: 20, Size: 90_000}},
			"beyond":         {{Target: 0, Base: int64(base.NarSize) - 10, Size: 11}},
			"out of order":   {{Target: 5000, Size: 100}, {Target: 10, Size: 100}},
			"over the edges": {{Target: int64(info.NarSize) - 1, Size: 100}},
			"all":            {{Size: int64(info.NarSize)}},
		} {
			items := []Item{{Info: info, Base: base, Copies: copies}}
			units := packAll(t, renewed, items, Default)
			got := newRemember()
			err := unpackAll(old, got, units)
			right := err == nil && bytes.Equal(got.nars[info.Path], renewed.nars[info.Path])
			_, _, deltas := sumOf(units)
			switch {
			case name == "partly" && total > SegmentSize:
				// That is so little of a segment that it is not used.
			case (name == "partly" || name == "all") && (right || deltas == 0):
				t.Errorf("%s of %d: %d bytes are from the base, the result is right: %t", name, total, deltas, right)
			case name != "partly" && name != "all" && !right:
				t.Errorf("%s of %d: %v", name, total, err)
			}
		}
	}
}

func TestWithinClipsCopies(t *testing.T) {
	copies := []delta.Copy{{Target: 0, Base: 100, Size: 10}, {Target: 20, Base: 0, Size: 30}, {Target: 60, Base: 7, Size: 1}}
	for _, tt := range []struct {
		off, size int64
		want      []delta.Copy
	}{
		{0, 100, copies},
		{5, 10, []delta.Copy{{Target: 0, Base: 105, Size: 5}}},
		{10, 10, nil},
		{25, 10, []delta.Copy{{Target: 0, Base: 5, Size: 10}}},
		{49, 11, []delta.Copy{{Target: 0, Base: 29, Size: 1}}},
		{60, 1, []delta.Copy{{Target: 0, Base: 7, Size: 1}}},
		{61, 100, nil},
	} {
		if got := within(copies, tt.off, tt.size); !slices.Equal(got, tt.want) {
			t.Errorf("%d bytes at %d: %v", tt.size, tt.off, got)
		}
	}
}
