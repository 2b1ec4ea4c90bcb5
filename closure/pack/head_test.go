package pack

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/storepath"
)

var compareEntries = cmp.Options{comparePaths, cmp.AllowUnexported(entry{}, pair{})}

// everyKind are entries that use each part of the format.
func everyKind(w world) []entry {
	a, b, c := w.path("lib-1.0"), w.path("tool-2"), w.path("unit.service")
	outside, oldA, oldB, oldOutside := w.path("glibc-2.39"), w.path("lib-1.0"), w.path("tool-1"), w.path("glibc-2.38")
	signature := make([]byte, signatureSize)
	w.fill(signature)
	hash := [32]byte{1, 2, 3}
	return []entry{
		{
			info: storepath.Info{Path: a, NarHash: hash, NarSize: 4000, References: sorted(a, outside), Deriver: w.path("lib-1.0.drv"), CA: contentAddress(hash)},
			base: oldA, baseSize: 4000, refs: pairs(oldA, a, oldOutside, outside), body: bodySame,
		},
		{
			info: storepath.Info{Path: b, NarHash: [32]byte{4}, NarSize: 70, References: sorted(a, outside), Deriver: w.path("other.drv"), Signatures: []string{
				formatSignature("cache.example.org-1", signature), "cache.example.org-1:", "", "odd", "key:" + base64.StdEncoding.EncodeToString(signature[:63]),
				"key:" + strings.TrimRight(base64.StdEncoding.EncodeToString(signature), "="), "a:b:" + base64.StdEncoding.EncodeToString(signature),
			}},
			base: oldB, baseSize: 90, refs: pairs(oldA, a, oldB, b), body: bodyDelta,
		},
		{info: storepath.Info{Path: c, NarHash: [32]byte{5}, NarSize: 0, References: sorted(a, b, c), CA: "text:sha256:abc"}},
		{info: storepath.Info{Path: w.path("empty"), NarHash: [32]byte{6}, NarSize: 120}, base: outside, baseSize: 1 << 30, body: bodyPlain},
	}
}

func sorted(paths ...storepath.Path) []storepath.Path {
	storepath.Sort(paths)
	return paths
}

// pairs makes a reference map of paths, two by two.
func pairs(paths ...storepath.Path) []pair {
	refs := make(map[string]string)
	for i := 0; i < len(paths); i += 2 {
		refs[paths[i].Hash()] = paths[i+1].Hash()
	}
	return newEntry(Item{Base: storepath.Info{Path: paths[0]}, Refs: refs}).refs
}

func TestWhatAUnitSaysOfItsPathsComesBack(t *testing.T) {
	want := everyKind(newWorld(1))
	raw, text, err := writeHead(want)
	if err != nil {
		t.Fatal(err)
	}
	got, rest, err := readHead(raw, append(text, "rest"...))
	if err != nil || string(rest) != "rest" {
		t.Fatalf("%v, %q", err, rest)
	}
	if diff := cmp.Diff(want, got, compareEntries); diff != "" {
		t.Error(diff)
	}
}

func TestTwoReferencesWithOnePredecessorAreNoMapOfTheirOwn(t *testing.T) {
	w := newWorld(2)
	path, one, two, old, base := w.path("path"), w.path("one"), w.path("two"), w.path("old"), w.path("path")
	first := entry{info: storepath.Info{Path: w.path("first"), References: sorted(two)}, base: w.path("first"), refs: pairs(old, two)}
	second := entry{info: storepath.Info{Path: path, References: sorted(one, two)}, base: base, refs: pairs(base, path, old, one)}
	raw, text, err := writeHead([]entry{first, second})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := readHead(raw, text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]entry{first, second}, got, compareEntries); diff != "" {
		t.Error(diff)
	}
}

func TestAHeadThatIsCutOrLongerIsRefused(t *testing.T) {
	raw, text, err := writeHead(everyKind(newWorld(1)))
	if err != nil {
		t.Fatal(err)
	}
	for n := range text {
		if _, _, err := readHead(raw, text[:n]); err == nil {
			t.Errorf("with %d of %d bytes of text: no error", n, len(text))
		}
	}
	for n := range raw {
		if _, _, err := readHead(raw[:n], text); err == nil {
			t.Errorf("with %d of %d bytes of hashes: no error", n, len(raw))
		}
	}
	if _, _, err := readHead(append(raw, 0), text); err == nil {
		t.Error("with a byte more: no error")
	}
}

func TestAHeadWithAnyByteChangedIsReadOrRefused(t *testing.T) {
	raw, text, err := writeHead(everyKind(newWorld(1)))
	if err != nil {
		t.Fatal(err)
	}
	for n := range text {
		for _, change := range []byte{1, 2, 0x7f, 0x80, 0xff} {
			changed := append([]byte(nil), text...)
			changed[n] ^= change
			entries, _, err := readHead(raw, changed)
			if err != nil {
				continue
			}
			for _, e := range entries {
				if e.body != bodyPlain && e.base.IsZero() || e.info.Path.IsZero() {
					t.Errorf("byte %d changed by %#x: %v", n, change, e)
				}
			}
		}
	}
}

func TestPathsThatCannotShareAUnitAreNamed(t *testing.T) {
	w := newWorld(3)
	a, b := w.path("a"), w.path("b")
	for name, entries := range map[string][]entry{
		"twice":                       {{info: storepath.Info{Path: a}}, {info: storepath.Info{Path: a}}},
		"before its reference":        {{info: storepath.Info{Path: a, References: sorted(b)}}, {info: storepath.Info{Path: b}}},
		"another path with this hash": {{info: storepath.Info{Path: a}}, {info: storepath.Info{Path: b, References: sorted(mustPath(a.Hash() + "-c"))}}},
		"too many references":         {{info: storepath.Info{Path: a, References: make([]storepath.Path, maxReferences+1)}}},
		"a hash that is none":         {{info: storepath.Info{Path: a}, base: b, refs: []pair{{"short", a.Hash()}}}},
	} {
		if _, _, err := writeHead(entries); err == nil || name != "a hash that is none" && !strings.Contains(err.Error(), a.String()) && !strings.Contains(err.Error(), b.String()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
