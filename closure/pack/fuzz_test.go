package pack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

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
	raw, text, err := writeHead(everyKind(newWorld(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(byte(kindBatch), raw, append([]byte{0, 0}, text...), make([]byte, 300), []byte("flu\x02\x00"))
	c, err := newCompressor(Fastest)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind byte, raw, text, bodies, whole []byte) {
		sink := &careful{t: t}
		u := NewUnpacker(context.Background(), p, sink)
		defer u.Close()
		check := func(err error) {
			var format *FormatError
			var path *PathError
			if err != nil && !errors.As(err, &format) && !errors.As(err, &path) {
				t.Errorf("an error of no kind: %v", err)
			}
		}
		if kind == kindFurther {
			// A segment follows another.
			for _, unit := range p.units[:2] {
				check(u.Unit(unit.Bytes))
			}
		}
		check(u.Unit(parts{kind, raw, c.EncodeAll(text, nil), c.EncodeAll(bodies, nil)}.join()))
		check(u.End())
		if p.open > 1 {
			t.Errorf("%d views are open", p.open)
		}
		second := NewUnpacker(context.Background(), p, sink)
		check(second.Unit(whole))
		second.Close()
	})
}

// FuzzRoundTrip makes paths with bases by a script, packs and unpacks them.
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
			if script[i+2]&8 != 0 {
				item.Base, item.Refs = base, map[string]string{base.Path.Hash(): item.Info.Path.Hash()}
			}
			items = append(items, item)
		}
		got := newRemember()
		if err := unpackAll(s, got, packAll(t, s, items, Level(how&1))); err != nil {
			t.Fatal(err)
		}
		checkArrived(t, items, got)
		if s.open != 0 {
			t.Errorf("%d views are open", s.open)
		}
	})
}
