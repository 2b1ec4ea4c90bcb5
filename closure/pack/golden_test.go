package pack

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

var update = flag.Bool("update", false, "write the golden vectors anew; the old ones must stay readable as long as the version is the same")

const vectors = "testdata/vectors.json"

// vector is a push as docs/units.md specifies it, for other implementations too.
type vector struct {
	Rule  string
	Bases map[string][]byte `json:",omitempty"`
	// ZeroBases are those of nothing but zeros, by their sizes.
	ZeroBases map[string]int `json:",omitempty"`
	Units     [][]byte
	Paths     []vectorPath
}

type vectorPath struct {
	Path       string
	NarHash    []byte
	References []string `json:",omitempty"`
	Deriver    string   `json:",omitempty"`
	Signatures []string `json:",omitempty"`
	CA         string   `json:",omitempty"`
	NAR        []byte   `json:",omitempty"`
	// Zeros stands for a NAR of that many zero bytes.
	Zeros int `json:",omitempty"`
}

// makeVectors packs some paths of each kind. Contents are no NARs, to keep them short: nothing here looks into them.
func makeVectors(t *testing.T) []vector {
	w := newWorld(16)
	s := newStore()
	add := func(name, contents string, refs ...storepath.Path) storepath.Info {
		return s.add(w.path(name), []byte(contents), refs...)
	}
	plainA := add("lib-1.0", "a library")
	plainB := add("tool-1.0", "a tool that loads "+plainA.Path.String(), plainA.Path)
	plainB.Deriver, plainB.CA = w.path("tool-1.0.drv"), "text:sha256:1111111111111111111111111111111111111111111111111111"
	plainB.Signatures = []string{formatSignature("cache-1", make([]byte, signatureSize)), "odd"}

	const story = "a text of several sentences. it is long enough for a delta to be worth it. nothing else is in it. "
	old := add("text-1.0", story+story+plainA.Path.String())
	newLib := add("lib-1.0", "a library, renewed")
	same := add("text-1.0", story+story+newLib.Path.String(), newLib.Path)
	changed := add("text-1.1", story+"and a sentence more. "+story+newLib.Path.String(), newLib.Path)
	maps := map[string]string{plainA.Path.Hash(): newLib.Path.Hash()}

	zeros := func(name string, size int) storepath.Info { return s.add(w.path(name), make([]byte, size)) }
	large, base := zeros("large", SegmentSize+2000), zeros("base", SegmentSize+3000)
	long := strings.Repeat(story, 1+leastBodies/len(story))
	before, after := add("before-1.0", long+"the first. "), add("after-1.0", "the second. "+long)
	noise := make([]byte, 6000)
	w.fill(noise)
	ground, moved := add("noise-1.0", string(noise)), add("noise-1.1", string(scattered(w, noise)))
	first, then := add("kept-1.0", long+"kept. "), add("made-1.0", "made of "+long)
	whole := []delta.Copy{{Target: int64(len("made of ")), Size: int64(len(long))}}
	// Zeros that are copied from those at the beginning of the same path.
	own := Item{Info: large, Base: large, Keep: true, Copies: []delta.Copy{{Target: 1 << 20, Size: 3 << 20}, {Target: SegmentSize, Size: 2000}}}
	cases := []struct {
		rule  string
		specs []Spec
		level Level
	}{
		{"plain paths", Layout(plain([]storepath.Info{plainA, plainB})), Default},
		{"the base with other hashes, a delta, a map that is listed", Layout([]Item{
			{Info: newLib}, {Info: same, Base: old, Refs: maps}, {Info: changed, Base: old, Refs: map[string]string{plainA.Path.Hash(): newLib.Path.Hash(), old.Path.Hash(): changed.Path.Hash()}},
		}), Default},
		{"plain segments", Layout(plain([]storepath.Info{large})), Default},
		{"segments of a base", Layout([]Item{{Info: large, Base: base}}), Default},
		{"a unit with its past", []Spec{
			{Items: plain([]storepath.Info{before})}, {Items: plain([]storepath.Info{after}), Past: Past{Items: plain([]storepath.Info{before})}},
		}, Better},
		{"a path with its base as ground", Layout([]Item{{Info: moved, Base: ground, Refs: map[string]string{ground.Path.Hash(): moved.Path.Hash()}}}), Best},
		{"a path that is kept, and one that is made of it", Layout([]Item{{Info: first, Keep: true}, {Info: then, Base: first, Copies: whole}}), Default},
		{"a path that is made of itself", Layout([]Item{own}), Default},
	}
	p := NewPacker(s)
	defer p.Close()
	var made []vector
	for _, c := range cases {
		var items []Item
		v := vector{Rule: c.rule, Bases: make(map[string][]byte), ZeroBases: make(map[string]int)}
		for _, spec := range c.specs {
			v.Units = append(v.Units, mustPack(t, p, spec, c.level).Bytes)
			if spec.Segment == 0 {
				items = append(items, spec.Items...)
			}
		}
		for _, item := range items {
			v.Paths = append(v.Paths, describeVector(item.Info, s))
			switch {
			case len(item.Copies) > 0: // the base is of the push
			case item.large() && !item.Base.Path.IsZero():
				v.ZeroBases[item.Base.Path.Base()] = int(item.Base.NarSize)
			case !item.Base.Path.IsZero():
				v.Bases[item.Base.Path.Base()] = s.nars[item.Base.Path]
			}
		}
		made = append(made, v)
	}
	return made
}

func describeVector(info storepath.Info, s *store) vectorPath {
	p := vectorPath{Path: info.Path.Base(), NarHash: info.NarHash[:], Deriver: info.Deriver.Base(), Signatures: info.Signatures, CA: info.CA}
	for _, ref := range info.References {
		p.References = append(p.References, ref.Base())
	}
	if info.NarSize > SmallNAR {
		p.Zeros = int(info.NarSize)
	} else {
		p.NAR = s.nars[info.Path]
	}
	return p
}

func TestGoldenVectors(t *testing.T) {
	if *update {
		text, err := json.MarshalIndent(makeVectors(t), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectors, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(vectors)
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		checkVector(t, v)
	}
	if len(all) < 8 {
		t.Errorf("%d vectors", len(all))
	}
}

func checkVector(t *testing.T, v vector) {
	t.Helper()
	have := newStore()
	for base, data := range v.Bases {
		have.nars[mustPath(base)] = data
	}
	var items []Item
	for _, p := range v.Paths {
		info := storepath.Info{Path: mustPath(p.Path), NarHash: [32]byte(p.NarHash), NarSize: uint64(len(p.NAR) + p.Zeros), Signatures: p.Signatures, CA: p.CA}
		for _, ref := range p.References {
			info.References = append(info.References, mustPath(ref))
		}
		if p.Deriver != "" {
			info.Deriver = mustPath(p.Deriver)
		}
		items = append(items, Item{Info: info})
	}
	for base, size := range v.ZeroBases {
		have.nars[mustPath(base)] = make([]byte, size)
	}
	var units []Unit
	for _, unit := range v.Units {
		units = append(units, Unit{Bytes: unit})
	}
	got := newRemember()
	if err := unpackAll(have, got, units); err != nil {
		t.Errorf("%s: %v", v.Rule, err)
	}
	checkArrived(t, items, got)
}
