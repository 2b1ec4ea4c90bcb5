package pack

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"fleet/closure/storepath"
)

// scattered is noise of which every piece of 12 bytes is also in noise, in another place, too short for a delta.
func scattered(w world, noise []byte) []byte {
	const piece = 12
	out := make([]byte, 0, len(noise))
	for _, n := range w.Perm(len(noise) / piece) {
		out = append(out, noise[n*piece:][:piece]...)
		out = append(out, byte(w.Uint32()), byte(w.Uint32()))
	}
	return out
}

// onGround makes a small and a large path that have as much in common with their bases as zstd finds, and a delta does not.
func onGround() (*store, []Item) {
	w := newWorld(40)
	s := newStore()
	var items []Item
	for _, size := range []int{300 << 10, SmallNAR + 1<<20, 60 << 10} {
		noise := make([]byte, size)
		w.fill(noise)
		base := s.add(w.path("base"), file(noise))
		info := s.add(w.path("path"), file(scattered(w, noise)))
		items = append(items, Item{Info: info, Base: base, Refs: map[string]string{base.Path.Hash(): info.Path.Hash()}})
	}
	return s, items
}

func TestWhatADeltaDoesNotFindIsCompressedWithTheBase(t *testing.T) {
	s, items := onGround()
	for level := range levels {
		units := packAll(t, s, items, level)
		got := newRemember()
		if err := unpackAll(s, got, units); err != nil {
			t.Fatal(err)
		}
		checkArrived(t, items, got)
		size, nars, deltas := sumOf(units)
		if level == Best && (uint64(size) > nars*2/3 || deltas != nars) {
			t.Errorf("%v: %d bytes for %d, %d of them with bases", level, size, nars, deltas)
		}
		if s.open != 0 {
			t.Errorf("%v: %d views are open", level, s.open)
		}
	}
}

func TestABaseThatCannotBeReadIsNoGround(t *testing.T) {
	s, items := onGround()
	for i := range items {
		items[i].Base.NarSize++ // it was changed
	}
	units := packAll(t, s, items, Best)
	got := newRemember()
	if err := unpackAll(newStore(), got, units); err != nil {
		t.Fatal(err)
	}
	checkArrived(t, items, got)
}

func TestAGroundThatIsAnotherIsNoticed(t *testing.T) {
	s, items := onGround()
	units := packAll(t, s, items, Best)
	for i, item := range items {
		other := newStore()
		for path, data := range s.nars {
			other.nars[path] = data
		}
		changed := bytes.Clone(s.nars[item.Base.Path])
		for at := 200; at < len(changed); at += 100 {
			changed[at]++
		}
		other.nars[item.Base.Path] = changed
		var path *PathError
		if err := unpackAll(other, &own{}, units); !errors.As(err, &path) || !slices.ContainsFunc(items, func(i Item) bool { return i.Info.Path == path.Path }) {
			t.Errorf("base %d: %v", i, err)
		}
		delete(other.nars, item.Base.Path)
		if err := unpackAll(other, &own{}, units); !errors.As(err, &path) || path.Path != item.Info.Path {
			t.Errorf("base %d is gone: %v", i, err)
		}
		if other.open != 0 {
			t.Errorf("base %d: %d views are open", i, other.open)
		}
	}
}

// The largest history, unit after unit: as much of the past as there may be, and as much ground.
func TestTheMemoryForHistoryIsBounded(t *testing.T) {
	w := newWorld(41)
	s := newStore()
	noise := make([]byte, 3*SegmentSize)
	w.fill(noise)
	base := s.add(w.path("base"), file(noise))
	var items []Item
	for range 2 {
		info := s.add(w.path("path"), file(scattered(w, noise)))
		items = append(items, Item{Info: info, Base: base})
	}
	specs := Layout(items)
	p := NewPacker(s)
	defer p.Close()
	var units []Unit
	most := history{}
	for _, spec := range specs {
		units = append(units, mustPack(t, p, spec, Best))
		h := historyOf(t, units[len(units)-1])
		most.past, most.ground = max(most.past, h.past), max(most.ground, h.ground)
	}
	if most.past != maxPast || most.ground != maxGround {
		t.Fatalf("%d bytes of the past and %d of bases", most.past, most.ground)
	}
	allocated := allocatedUnpacking(t, s, units)
	// Half of what the NARs are kept in is allocated once more, when the first ground comes.
	if allocated > 40<<20 {
		t.Errorf("%d bytes were allocated", allocated)
	}
}

// historyOf is what a unit says that it was made with.
func historyOf(t *testing.T, unit Unit) history {
	t.Helper()
	z, err := newDecompressor()
	if err != nil {
		t.Fatal(err)
	}
	defer z.close()
	p, err := split(unit.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	text, err := z.decompress(p.head, nil, nil, maxText)
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := readHistory(text, p.kind)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestWhatAUnitSaysOfItsHistoryIsReadAsItWasWritten(t *testing.T) {
	for _, h := range []history{{}, {past: 1}, {ground: 7, from: 1 << 30}, {past: maxPast, ground: maxGround}} {
		for _, kind := range []byte{kindBatch, kindFirst, kindFurther} {
			want := h
			if kind == kindBatch {
				want.from = 0
			}
			text := append(h.append(nil, kind), "rest"...)
			got, rest, err := readHistory(text, kind)
			if err != nil || got != want || string(rest) != "rest" {
				t.Errorf("%+v: %+v and %q, %v", h, got, rest, err)
			}
		}
	}
}

// Whatever is sent of a path that nothing of its base helps with: no more than without one.
func TestAGroundThatDoesNotHelpCostsLittle(t *testing.T) {
	w := newWorld(42)
	s := newStore()
	noise := make([]byte, 1<<20)
	w.fill(noise)
	base := s.add(w.path("base"), file(noise))
	var with, without []Item
	for range 3 {
		info := s.add(w.path("path"), file(w.text(200_000, []storepath.Path{base.Path})))
		with, without = append(with, Item{Info: info, Base: base}), append(without, Item{Info: info})
	}
	got, _, _ := sumOf(packAll(t, s, with, Best))
	want, _, _ := sumOf(packAll(t, s, slices.Clone(without), Best))
	if got > want+want/20 {
		t.Errorf("%d bytes, %d without bases", got, want)
	}
}
