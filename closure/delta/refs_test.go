package delta

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// naiveView is the definition of a view, as docs/delta.md has it: keys are looked for in the base, from its beginning to
// its end, and each occurrence overwrites what an earlier one wrote.
func naiveView(base []byte, pairs map[string]string) []byte {
	out := bytes.Clone(base)
	for i := 0; i+HashLength <= len(base); i++ {
		if to, ok := pairs[string(base[i:i+HashLength])]; ok {
			copy(out[i:], to)
		}
	}
	return out
}

func TestViewReplacesHashesWhereverItIsCut(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 3))
	period := strings.Repeat("ab", HashLength/2)
	pairs := map[string]string{
		hashOf(r): hashOf(r),
		// Keys that overlap with themselves and with each other.
		strings.Repeat("a", HashLength): hashOf(r),
		period:                          hashOf(r),
		period[1:] + "a":                hashOf(r),
	}
	// A value that is a key itself is not replaced again.
	chain := hashOf(r)
	pairs[hashOf(r)], pairs[chain] = chain, hashOf(r)

	var base []byte
	for range 60 {
		for from := range pairs {
			switch r.IntN(4) {
			case 0:
				base = append(base, text(r, r.IntN(50))...)
			case 1:
				base = append(base, from[r.IntN(HashLength):]...)
			case 2:
				base = append(base, from...)
			default:
				base = append(base, strings.Repeat(from[:2], r.IntN(40))...)
			}
		}
	}
	want := naiveView(base, pairs)
	if bytes.Equal(want, base) {
		t.Fatal("nothing is replaced")
	}
	refs := mustRefs(t, pairs)
	for size := 1; size < 100; size++ {
		var v view
		v.reset(bytes.NewReader(base), refs)
		var got []byte
		for off := 0; off < len(base); off += size {
			piece := make([]byte, min(size, len(base)-off))
			if err := v.read(piece, int64(off)); err != nil {
				t.Fatal(err)
			}
			got = append(got, piece...)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("another view in pieces of %d bytes", size)
		}
	}
}

func TestHashesAcrossPagesAndWindowsCostNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	old, renewed := hashOf(r), hashOf(r)
	base := text(r, 10*pageSize)
	for at := minWindow - 16; at+HashLength < len(base); at += minWindow {
		copy(base[at:], old)
	}
	x := example{base: base, target: bytes.ReplaceAll(base, []byte(old), []byte(renewed)), refs: mustRefs(t, map[string]string{old: renewed})}
	if delta, stats := roundTrip(t, x, Options{}); stats.Patched != 0 || len(delta) > 60 {
		t.Errorf("%d bytes, %+v", len(delta), stats)
	}
}

func TestNewRefsRefuses(t *testing.T) {
	good := strings.Repeat("0", HashLength)
	for rule, bad := range map[string]string{
		"short":            good[1:],
		"long":             good + "0",
		"letter e":         "e" + good[1:],
		"upper case":       "A" + good[1:],
		"letter past 7bit": "ä" + good[2:],
		"empty":            "",
	} {
		for _, pairs := range []map[string]string{{bad: good}, {good: bad}} {
			if _, err := NewRefs(pairs); err == nil {
				t.Errorf("%s: %q is accepted", rule, pairs)
			}
		}
	}
	many := make(map[string]string, MaxRefs+1)
	for i := range MaxRefs + 1 {
		many[fmt.Sprintf("%032d", i)] = good
	}
	if _, err := NewRefs(many); err == nil {
		t.Error("a map beyond the limit is accepted")
	}
}

func TestRefsHaveAnIdentity(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	a, b, c := hashOf(r), hashOf(r), hashOf(r)
	ids := map[[8]byte]bool{}
	for _, pairs := range []map[string]string{{}, {a: b}, {b: a}, {a: c}, {a: b, b: c}} {
		ids[mustRefs(t, pairs).id] = true
	}
	if len(ids) != 5 {
		t.Errorf("5 maps have %d identities", len(ids))
	}
	same := mustRefs(t, map[string]string{a: b, c: c})
	if same.id != mustRefs(t, map[string]string{a: b}).id || same.Len() != 1 {
		t.Error("a hash that stays as it is changes the map")
	}
	if (*Refs)(nil).Len() != 0 {
		t.Error("no map is not empty")
	}
}
