package pack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// careful is a sink that notices more bytes than a path has.
type careful struct {
	t     *testing.T
	paths int
}

func (c *careful) Path(_ context.Context, info storepath.Info, _ storepath.Path, nar io.Reader) error {
	n, err := io.Copy(io.Discard, nar)
	if uint64(n) > info.NarSize || err == nil && uint64(n) < info.NarSize || info.Path.IsZero() {
		c.t.Errorf("%d bytes of %q, which has %d: %v", n, info.Path, info.NarSize, err)
	}
	c.paths++
	return err
}

// FuzzUnpack takes any unit: an error of a known kind, or NARs of the stated sizes. The checksums would keep nearly everything out, so what is
// fuzzed is what lies within them.
func FuzzUnpack(f *testing.F) {
	p := makePush(f)
	for _, unit := range p.units {
		s := take(f, unit)
		f.Add(s.kind, s.raw, s.text, s.bodies[:min(len(s.bodies), 1<<12)], unit.Bytes[:min(len(unit.Bytes), 1<<10)])
	}
	kept, ownUnits := fuzzKept(f)
	for _, unit := range ownUnits {
		s := take(f, unit)
		f.Add(s.kind, s.raw, s.text, s.bodies[:min(len(s.bodies), 1<<12)], unit.Bytes[:min(len(unit.Bytes), 1<<10)])
	}
	raw, text, err := writeHead(everyKind(newWorld(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(byte(kindBatch), raw, append([]byte{0, 0}, text...), make([]byte, 300), []byte("flu\x03\x00"))
	c, err := newCompressor(Fastest)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind byte, raw, text, bodies, whole []byte) {
		sink := &careful{t: t}
		u := NewUnpacker(context.Background(), p, sink, diskSpool)
		defer u.Close()
		check := func(err error) {
			var format *FormatError
			var path *PathError
			if err != nil && !errors.As(err, &format) && !errors.As(err, &path) {
				t.Errorf("an error of no kind: %v", err)
			}
		}
		// What is kept is there to be copied from.
		check(u.Unit(kept.Bytes))
		if kind == kindFurther {
			// A segment follows another: of a path with a base, or of one that is its own.
			before := p.units[:2]
			if len(raw) == hashSize && bytes.Equal(raw, take(t, ownUnits[1]).raw) {
				before = ownUnits[:1]
			}
			for _, unit := range before {
				check(u.Unit(unit.Bytes))
			}
		}
		check(u.Unit(parts{kind, raw, c.EncodeAll(text, nil), c.EncodeAll(bodies, nil)}.join()))
		check(u.End())
		if p.open > 1 {
			t.Errorf("%d views are open", p.open)
		}
		second := NewUnpacker(context.Background(), p, sink, diskSpool)
		check(second.Unit(whole))
		second.Close()
	})
}

// fuzzKept makes a unit of a path that is kept, and those of a large path of zeros that is made of itself.
func fuzzKept(f *testing.F) (kept Unit, own []Unit) {
	w := newTwice(14)
	small := Item{Info: w.add(w.path("kept"), file(w.noise(2000))), Keep: true}
	large := Item{Info: w.add(w.path("own"), make([]byte, 2*SegmentSize)), Keep: true}
	large.Base, large.Copies = large.Info, []delta.Copy{{Target: 1 << 20, Size: 2 << 20}, {Target: SegmentSize + 100, Base: 100, Size: 4 << 20}}
	return packAll(f, w, []Item{small}, Default)[0], packAll(f, w, []Item{large}, Default)
}

// FuzzRoundTrip makes paths by a script, packs and unpacks them: some with a base that the receiver has, some that are made of the one before, or of themselves.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("text of a base that is long enough to be found"), []byte("\x00\x40\x05\x81\x40\x10"), uint8(0))
	f.Add(bytes.Repeat([]byte("0c4d6b8z1v2x3y5w7q9rsndfghijklmp"), 40), []byte("\x10\xff\x05\x81\x40\x10\x42"), uint8(9))
	f.Fuzz(func(t *testing.T, seed, script []byte, how uint8) {
		if len(seed) == 0 || len(script) > 60 {
			return
		}
		w := newWorld(uint64(how))
		s := newStore()
		base := s.add(w.path("base"), bytes.Repeat(seed, 1+int(how>>4)))
		var items []Item
		for i := 0; i+3 <= len(script); i += 3 {
			contents := bytes.Clone(s.nars[base.Path])
			from, size := int(script[i])*len(contents)/256, int(script[i+1])
			contents = append(contents[from:min(len(contents), from+size*8)], script[i:i+3]...)
			if how&2 != 0 && i == 3 {
				contents = bytes.Repeat(contents, 1+(SegmentSize+500_000)/len(contents))
			}
			var refs []storepath.Path
			for k := range min(len(items), int(script[i+2]&7)) {
				refs = append(refs, items[k].Info.Path)
			}
			item := Item{Info: s.add(w.path("path"), contents, refs...)}
			switch {
			case script[i+2]&16 != 0 && i > 0:
				before := &items[len(items)-1]
				before.Keep, item.Base = true, before.Info
				item.Copies = equalPieces(s.nars[before.Info.Path], contents)
			case script[i+2]&32 != 0:
				item.Keep, item.Base = true, item.Info
				item.Copies = equalPieces(contents[:len(contents)-SelfDistance%len(contents)], contents)
			case script[i+2]&8 != 0:
				item.Base, item.Refs = base, map[string]string{base.Path.Hash(): item.Info.Path.Hash()}
			}
			items = append(items, item)
		}
		got := newRemember()
		views := newStore()
		views.nars[base.Path] = s.nars[base.Path]
		if err := unpackAll(views, got, packAll(t, s, items, Level(how&1))); err != nil {
			t.Fatal(err)
		}
		checkArrived(t, items, got)
		if s.open+views.open != 0 {
			t.Errorf("%d views are open", s.open+views.open)
		}
	})
}

// equalPieces finds what a target has of a base, in pieces of a few KiB.
func equalPieces(base, target []byte) []delta.Copy {
	const size = 4 << 10
	var copies []delta.Copy
	for at := 0; at+size <= len(target); at += size {
		if from := bytes.LastIndex(base[:min(len(base), 64*size)], target[at:at+size]); from >= 0 {
			copies = append(copies, delta.Copy{Target: int64(at), Base: int64(from), Size: size})
		}
	}
	// No copy at all would mean that they are to be looked for in the base.
	return append(copies, delta.Copy{Target: int64(len(target)), Size: 0})
}
