package closure

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/storepath"
)

func testPath(t testing.TB, name string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase("0c4d6b8z1v2x3y5w7q9rsndfghijklmp-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func paths(t testing.TB, names ...string) []storepath.Path {
	t.Helper()
	var result []storepath.Path
	for _, name := range names {
		result = append(result, testPath(t, name))
	}
	return result
}

func node(t testing.TB, name string, size uint64, refs ...string) PathInfo {
	t.Helper()
	return PathInfo{Path: testPath(t, name), NarSize: size, References: paths(t, refs...)}
}

func diff(want, got any) string {
	return cmp.Diff(want, got, cmp.Comparer(func(a, b storepath.Path) bool { return a == b }))
}

// diamond is: top needs left and right, both need base, which refers to itself.
func diamond(t testing.TB) []PathInfo {
	t.Helper()
	return []PathInfo{node(t, "top", 1, "right", "left"), node(t, "left", 2, "base"), node(t, "right", 4, "base"), node(t, "base", 8, "base")}
}

func TestTopologicalPutsDependenciesFirstInOneOrder(t *testing.T) {
	infos := diamond(t)
	want := paths(t, "base", "left", "right", "top")
	for range 20 {
		rand.Shuffle(len(infos), func(i, k int) { infos[i], infos[k] = infos[k], infos[i] })
		g, err := NewGraph(paths(t, "top"), infos)
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(want, g.Topological()); d != "" {
			t.Fatal(d)
		}
	}
}

func TestTopologicalOfALongChain(t *testing.T) {
	const length = 50_000
	infos := make([]PathInfo, length)
	for i := range infos {
		base := storepath.EncodeBase32([]byte{19: 0, 0: byte(i), 1: byte(i >> 8), 2: byte(i >> 16)}) + "-p"
		p, err := storepath.ParseBase(base)
		if err != nil {
			t.Fatal(err)
		}
		infos[i].Path = p
		if i > 0 {
			infos[i].References = []storepath.Path{infos[i-1].Path}
		}
	}
	g, err := NewGraph([]storepath.Path{infos[length-1].Path}, infos)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range g.Topological() {
		if p != infos[i].Path {
			t.Fatalf("place %d holds %s", i, p)
		}
	}
}

func TestGraphRefuses(t *testing.T) {
	var open *OpenGraphError
	if _, err := NewGraph(paths(t, "top"), diamond(t)[:3]); !errors.As(err, &open) || open.Path != testPath(t, "base") || open.Referrer != testPath(t, "left") {
		t.Error(err)
	}
	if _, err := NewGraph(paths(t, "other"), diamond(t)); !errors.As(err, &open) || !open.Referrer.IsZero() {
		t.Error(err)
	}
	var cycle *CycleError
	if _, err := NewGraph(nil, []PathInfo{node(t, "a", 1, "b"), node(t, "b", 1, "c"), node(t, "c", 1, "a")}); !errors.As(err, &cycle) {
		t.Error(err)
	}
	if _, err := NewGraph(nil, append(diamond(t), node(t, "top", 1))); err == nil {
		t.Error("a path was accepted twice")
	}
	if _, err := NewGraph(nil, []PathInfo{{}}); err == nil {
		t.Error("an info without a path was accepted")
	}
}

func TestGraphParts(t *testing.T) {
	g, err := NewGraph(paths(t, "top", "left", "top"), diamond(t))
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(Sizes{Paths: 4, NAR: 15}, g.Sizes()); d != "" || g.Len() != 4 {
		t.Error(d)
	}
	if d := diff(paths(t, "left", "top"), g.Roots()); d != "" {
		t.Error(d)
	}
	left, err := g.Subgraph(testPath(t, "left"))
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(paths(t, "base", "left"), left.Topological()); d != "" || left.Sizes().NAR != 10 {
		t.Error(d)
	}
	var open *OpenGraphError
	if _, err := g.Subgraph(testPath(t, "other")); !errors.As(err, &open) {
		t.Error(err)
	}
	has := paths(t, "base", "left")
	rest := g.Without(func(p storepath.Path) bool { return slices.Contains(has, p) })
	if d := diff(paths(t, "right", "top"), rest.Topological()); d != "" || rest.Sizes() != (Sizes{Paths: 2, NAR: 5}) {
		t.Error(d)
	}
	if d := diff(paths(t, "top"), rest.Roots()); d != "" {
		t.Error(d)
	}
	part, err := rest.Subgraph(testPath(t, "top"))
	if err != nil || part.Len() != 2 {
		t.Error(part, err)
	}
	if info, ok := g.Info(testPath(t, "top")); !ok || len(info.References) != 2 || info.References[0] != testPath(t, "left") {
		t.Error("references are not sorted:", info.References)
	}
	if rest.Has(testPath(t, "base")) || !g.Has(testPath(t, "base")) {
		t.Error("Without changed the wrong graph")
	}
}

func FuzzGraph(f *testing.F) {
	f.Add([]byte{0x01, 0x12, 0x20})
	f.Fuzz(func(t *testing.T, edges []byte) {
		infos := make([]PathInfo, 16)
		for i := range infos {
			infos[i] = node(t, string(rune('a'+i)), 1)
		}
		for _, edge := range edges {
			from := &infos[edge>>4]
			from.References = append(from.References, infos[edge&15].Path)
		}
		g, err := NewGraph(nil, infos)
		if err != nil {
			var cycle *CycleError
			if !errors.As(err, &cycle) {
				t.Fatal(err)
			}
			return
		}
		place := make(map[storepath.Path]int)
		for i, p := range g.Topological() {
			place[p] = i
		}
		for _, p := range g.Paths() {
			info, _ := g.Info(p)
			for _, ref := range info.References {
				if place[ref] > place[p] {
					t.Fatalf("%s comes before %s", p, ref)
				}
			}
		}
	})
}
