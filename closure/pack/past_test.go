package pack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"fleet/closure/storepath"
)

// withPast makes units that hold what the units before them do: text that repeats itself, as two large paths and many small ones.
func withPast() (*store, []Item) {
	w := newWorld(30)
	s := newStore()
	noise := make([]byte, 200<<10)
	w.fill(noise)
	var items []Item
	large := s.add(w.path("large"), file(slices.Concat(make([]byte, SegmentSize-len(noise)), noise, noise[:100<<10])))
	items = append(items, Item{Info: large})
	for n := range 8 {
		small := s.add(w.path("small"), file(noise[n*10<<10:100<<10]), large.Path)
		items = append(items, Item{Info: small})
	}
	last := s.add(w.path("large"), file(slices.Concat(noise[:100<<10], make([]byte, SmallNAR))), items[len(items)-1].Info.Path)
	return s, append(items, Item{Info: last})
}

// noisePast makes two units of noise, the second of which has all of the first. Of noise no piece can take the place of another.
func noisePast(t *testing.T) (*store, []Unit) {
	w := newWorld(35)
	s := newStore()
	noise := make([]byte, 60<<10)
	w.fill(noise)
	one := s.add(w.path("one"), file(noise))
	two := s.add(w.path("two"), file(slices.Concat(noise, noise[:20<<10])))
	past := Past{Items: []Item{{Info: one}}}
	p := NewPacker(s)
	defer p.Close()
	units := []Unit{mustPack(t, p, Spec{Items: past.Items}, Better), mustPack(t, p, Spec{Items: []Item{{Info: two}}, Past: past}, Better)}
	if len(units[1].Bytes) > 1000 {
		t.Fatalf("%d bytes", len(units[1].Bytes))
	}
	return s, units
}

func TestAUnitIsCompressedWithWhatTheOneBeforeHolds(t *testing.T) {
	s, items := withPast()
	for level := range levels {
		units := packAll(t, s, items, level)
		got := newRemember()
		if err := unpackAll(got, got, units); err != nil {
			t.Fatal(err)
		}
		checkArrived(t, items, got)
		if len(units) != 4 {
			t.Fatalf("%d units", len(units))
		}
		for n, unit := range units[1:] {
			if short := len(unit.Bytes) < 20<<10; short != (level >= Better) {
				t.Errorf("%v: unit %d has %d bytes", level, n+1, len(unit.Bytes))
			}
		}
	}
}

// Whoever makes a unit again needs files alone: how the unit before was described does not matter.
func TestThePastIsTheSameHoweverTheUnitBeforeIsDescribed(t *testing.T) {
	s, items := withPast()
	specs := Layout(items)
	w := newWorld(31)
	p := NewPacker(s)
	defer p.Close()
	for n, spec := range specs[1:] {
		want := mustPack(t, p, spec, Best)
		changed := spec
		changed.Past.Items = slices.Clone(spec.Past.Items)
		for i := range changed.Past.Items {
			info := changed.Past.Items[i].Info
			changed.Past.Items[i].Base = s.add(w.path("base"), s.nars[info.Path])
		}
		if got := mustPack(t, p, changed, Best); !bytes.Equal(got.Bytes, want.Bytes) {
			t.Errorf("unit %d depends on the base of what is before it", n+1)
		}
		// And where the host made it of a base.
		described := Spec{Items: changed.Past.Items, Segment: changed.Past.Segment}
		u := NewUnpacker(context.Background(), s, newRemember(), diskSpool)
		if described.Segment > 0 {
			first := described
			first.Segment = 0
			if err := u.Unit(mustPack(t, p, first, Best).Bytes); err != nil {
				t.Fatal(err)
			}
		}
		for _, spec := range []Spec{described, spec} {
			if err := u.Unit(mustPack(t, p, spec, Best).Bytes); err != nil {
				t.Errorf("unit %d: %v", n+1, err)
			}
		}
		u.Close()
	}
}

func TestAPastThatCannotBeReadIsNamed(t *testing.T) {
	s, items := withPast()
	p := NewPacker(s)
	defer p.Close()
	for n, spec := range Layout(items)[1:] {
		changed := spec
		changed.Past.Items = slices.Clone(spec.Past.Items)
		gone := &changed.Past.Items[len(changed.Past.Items)-1].Info
		gone.Path = newWorld(32).path("gone")
		_, err := p.Pack(context.Background(), changed, Better)
		var read *ReadError
		if !errors.As(err, &read) || read.Path != gone.Path {
			t.Errorf("unit %d: %v", n+1, err)
		}
		if _, err := p.Pack(context.Background(), changed, Default); err != nil {
			t.Errorf("unit %d, at a level that needs no past: %v", n+1, err)
		}
	}
}

// counting counts how often paths are opened.
type counting struct {
	*store
	opened atomic.Int64
}

func (c *counting) Open(path storepath.Path) (View, error) {
	c.opened.Add(1)
	return c.store.Open(path)
}

func TestNoPastIsReadForUnitsThatAreMadeOfBases(t *testing.T) {
	w := newWorld(33)
	old, infos := mixed(w)
	renewed, items := rebuilt(w, old, infos)
	for level := range levels {
		views := &counting{store: renewed}
		units := packAll(t, views, items, level)
		most := 0
		for _, spec := range Layout(items) {
			most += 2 * len(spec.Items) // it and its base
		}
		if opened := int(views.opened.Load()); opened > most {
			t.Errorf("%v: %d paths were opened for %d units of %d paths with bases", level, opened, len(units), len(items))
		}
	}
}

// What a unit says of its past is as little believed as all else.
func TestAPastThatIsAnotherIsRefused(t *testing.T) {
	s, units := noisePast(t)
	z, err := newDecompressor()
	if err != nil {
		t.Fatal(err)
	}
	defer z.close()
	past := func(n int, change func(uint64) uint64) Unit {
		p, err := split(units[n].Bytes)
		if err != nil {
			t.Fatal(err)
		}
		text, err := z.decompress(p.head, nil, nil, maxText)
		if err != nil {
			t.Fatal(err)
		}
		size, length := binary.Uvarint(text)
		if size == 0 {
			t.Fatalf("unit %d has no past", n)
		}
		p.head = compressed(t, append(binary.AppendUvarint(nil, change(size)), text[length:]...))
		return Unit{Bytes: p.join()}
	}
	for name, change := range map[string]func(uint64) uint64{
		"none":    func(uint64) uint64 { return 0 },
		"less":    func(size uint64) uint64 { return size - 1 },
		"half":    func(size uint64) uint64 { return size / 2 },
		"more":    func(size uint64) uint64 { return size + 1 },
		"endless": func(uint64) uint64 { return 1 << 62 },
	} {
		for n := 1; n < len(units); n++ {
			var format *FormatError
			sink := &own{}
			if err := unpackAll(s, sink, append(slices.Clone(units[:n]), past(n, change))); !errors.As(err, &format) {
				t.Errorf("unit %d, %s: %v", n, name, err)
			}
		}
	}
	// Another unit in between, which anybody could put there.
	other := s.add(newWorld(34).path("other"), make([]byte, SmallNAR))
	stranger := packAll(t, s, []Item{{Info: other}}, Default)
	var format *FormatError
	if err := unpackAll(s, &own{}, slices.Concat(units[:1], stranger, units[1:])); !errors.As(err, &format) {
		t.Errorf("another unit in between: %v", err)
	}
}
