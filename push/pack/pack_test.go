package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"fleet/closure"
	"fleet/closure/delta"
	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// folder is a store whose paths are folders of the same names.
type folder struct {
	closure.Source
	t     testing.TB
	dir   string
	views atomic.Int64
}

func newFolder(t testing.TB) *folder { return &folder{t: t, dir: t.TempDir()} }

func (f *folder) View(_ context.Context, path storepath.Path) (closure.View, error) {
	f.views.Add(1)
	return nar.OpenView(filepath.Join(f.dir, path.Base()))
}

// hashPart makes the n-th hash of a generation.
func hashPart(generation string, n int) string {
	return storepath.EncodeBase32(bytes.Repeat([]byte(generation), 20)[:16])[:26] + fmt.Sprintf("%06d", n)
}

// add writes a path with these contents and returns its info.
func (f *folder) add(base string, files map[string][]byte, references ...storepath.Path) closure.PathInfo {
	f.t.Helper()
	path, err := storepath.ParseBase(base)
	if err != nil {
		f.t.Fatal(err)
	}
	for name, data := range files {
		name = filepath.Join(f.dir, base, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
			f.t.Fatal(err)
		}
	}
	text := f.nar(path)
	return closure.PathInfo{Path: path, NarHash: sha256.Sum256(text), NarSize: uint64(len(text)), References: references}
}

func (f *folder) nar(path storepath.Path) []byte {
	f.t.Helper()
	var out bytes.Buffer
	if err := nar.Dump(&out, filepath.Join(f.dir, path.Base())); err != nil {
		f.t.Fatal(err)
	}
	return out.Bytes()
}

// program makes bytes that compress as programs do, with references in them.
func program(seed uint64, size int, references ...string) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	words := make([][]byte, 300)
	for i := range words {
		words[i] = make([]byte, 3+r.IntN(9))
		for k := range words[i] {
			words[i][k] = byte(r.Uint32())
		}
	}
	var out bytes.Buffer
	for out.Len() < size {
		out.Write(words[r.IntN(len(words))])
		if len(references) > 0 && r.IntN(200) == 0 {
			out.WriteString("/nix/store/" + references[r.IntN(len(references))])
		}
	}
	return out.Bytes()[:size]
}

// send makes all frames, as a push does, and returns them.
func send(t testing.TB, c *Cache, entries []Entry, level Level) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, spec := range append(Layout(entries), Spec{}) {
		data, err := c.Get(spec, level).Bytes(t.Context())
		if errors.Is(err, ErrNotWorth) {
			for _, piece := range Pieces(spec.Entries[0]) {
				if data, err = c.Get(piece, level).Bytes(t.Context()); err != nil {
					t.Fatal(err)
				}
				out.Write(data)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
	}
	return out.Bytes()
}

// receive does what a host does, and returns how many paths came as deltas.
func (f *folder) receive(wire []byte, entries []Entry) (deltas int) {
	f.t.Helper()
	reader, err := proto.NewImportReader(bytes.NewReader(wire))
	if err != nil {
		f.t.Fatal(err)
	}
	defer reader.Close()
	for _, want := range entries {
		entry, body, err := reader.Next()
		if err != nil {
			f.t.Fatal(err)
		}
		if entry.Path != want.Info.Path.String() {
			f.t.Fatalf("%s in place of %s", entry.Path, want.Info.Path)
		}
		var got bytes.Buffer
		if entry.Base == "" {
			_, err = io.Copy(&got, body)
		} else {
			deltas++
			err = f.decode(&got, want, entry, body)
		}
		if err != nil || !bytes.Equal(got.Bytes(), f.nar(want.Info.Path)) {
			f.t.Fatalf("%s: %d bytes, %v", want.Info.Path, got.Len(), err)
		}
	}
	if _, _, err := reader.Next(); err != io.EOF {
		f.t.Fatalf("the end: %v", err)
	}
	return deltas
}

func (f *folder) decode(w io.Writer, want Entry, entry proto.ImportEntry, body io.Reader) error {
	var references []string
	for _, reference := range want.Info.References {
		references = append(references, reference.Hash())
	}
	base, err := storepath.Parse(entry.Base)
	if err != nil {
		return err
	}
	refs, err := delta.NewRefs(proto.ReferenceMap(base.Hash(), want.Info.Path.Hash(), entry.Was, references))
	if err != nil {
		return err
	}
	return delta.Decode(w, delta.Patch{Base: bytes.NewReader(f.nar(base)), Refs: refs, Delta: body, Size: int64(entry.NarSize)}, delta.Limits{})
}

// generation makes a closure of small and large paths whose contents depend on nothing but their references.
func (f *folder) generation(name string, change func(n int, data []byte) []byte) []closure.PathInfo {
	var infos []closure.PathInfo
	var references []string
	for n := range 120 {
		size := []int{50, 300, 2000, 20_000, 700_000}[n%5]
		if n == 119 {
			size = 9 << 20
		}
		base := hashPart(name, n) + fmt.Sprintf("-package-%c-1.%d", 'a'+n%26, n)
		var paths []storepath.Path
		for _, info := range infos[max(0, len(infos)-3):] {
			paths = append(paths, info.Path)
		}
		storepath.Sort(paths)
		data := program(uint64(n), size, append(references[max(0, len(references)-3):], base)...)
		infos = append(infos, f.add(base, map[string][]byte{"bin/x": change(n, data), "share/doc": []byte(base)}, paths...))
		references = append(references, base)
	}
	return infos
}

// entries pairs two generations, path by path.
func entries(old, infos []closure.PathInfo) []Entry {
	earlier := map[storepath.Path]closure.PathInfo{}
	for i, info := range infos {
		earlier[info.Path] = old[i]
	}
	var all []Entry
	for _, info := range infos {
		e := Entry{Info: info, Base: earlier[info.Path]}
		for _, reference := range info.References {
			e.Was = append(e.Was, earlier[reference].Path.Hash())
		}
		all = append(all, e)
	}
	return all
}

func same(_ int, data []byte) []byte { return data }

func total(entries []Entry) (size int) {
	for _, e := range entries {
		size += int(e.Info.NarSize)
	}
	return size
}

func TestWhatIsPackedIsUnpacked(t *testing.T) {
	f := newFolder(t)
	old := f.generation("a", same)
	rebuilt := f.generation("b", same)
	other := f.generation("c", func(n int, data []byte) []byte { return program(uint64(n)+1000, len(data)) })
	for _, tt := range []struct {
		rule    string
		entries []Entry
		// most is how much of the NARs may be sent.
		most float64
		// deltas is how many paths come as deltas at least.
		deltas int
	}{
		{"without bases", entries(old, rebuilt), 1.01, 0},
		{"a mass rebuild costs next to nothing", entries(old, rebuilt), 0.03, 96},
		{"bases that have nothing in common", entries(old, other), 1.01, 0},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			f.t = t
			if tt.rule == "without bases" {
				for i := range tt.entries {
					tt.entries[i] = tt.entries[i].Plain()
				}
			}
			for _, level := range []Level{None, Fastest, Default, Better, Best} {
				wire := send(t, NewCache(f), tt.entries, level)
				deltas := f.receive(wire, tt.entries)
				share := float64(len(wire)) / float64(total(tt.entries))
				t.Logf("level %d: %.2f %%, %d deltas", level, 100*share, deltas)
				if share > tt.most || deltas < tt.deltas {
					t.Errorf("level %d: %.2f %% of the NARs, %d deltas", level, 100*share, deltas)
				}
			}
		})
	}
}

func TestABaseThatIsGoneIsDoneWithout(t *testing.T) {
	f := newFolder(t)
	old, rebuilt := f.generation("a", same), f.generation("b", same)
	all := entries(old, rebuilt)
	for _, info := range old {
		if err := os.RemoveAll(filepath.Join(f.dir, info.Path.Base())); err != nil {
			t.Fatal(err)
		}
	}
	if deltas := f.receive(send(t, NewCache(f), all, Default), all); deltas != 0 {
		t.Errorf("%d deltas", deltas)
	}
}

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	f := newFolder(t)
	for n, size := range []int{100, 6 << 20} {
		info := f.add(hashPart("a", n)+"-x", map[string][]byte{"x": program(1, size)})
		if err := os.WriteFile(filepath.Join(f.dir, info.Path.Base(), "more"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := NewCache(f).Get(Layout([]Entry{{Info: info}})[0], Default).Bytes(t.Context())
		failed, ok := errors.AsType[*ReadError](err)
		if _, corrupt := errors.AsType[*closure.CorruptError](err); !ok || !corrupt || failed.Entry.Info.Path != info.Path {
			t.Errorf("%v", err)
		}
	}
}

func TestHostsThatMissAlmostTheSameShareMostFrames(t *testing.T) {
	f := newFolder(t)
	var all []Entry
	for n := range 3000 {
		all = append(all, Entry{Info: f.add(hashPart("a", n)+"-x", map[string][]byte{"x": program(uint64(n), 3000)})})
	}
	frames := map[[sha256.Size]byte]bool{}
	for _, spec := range Layout(all) {
		frames[spec.key(Default)] = true
	}
	shared := 0
	rest := Layout(append(all[:100:100], all[101:]...))
	for _, spec := range rest {
		if frames[spec.key(Default)] {
			shared++
		}
	}
	if len(rest) < 4 || shared < len(rest)-1 {
		t.Errorf("%d of %d frames are shared", shared, len(rest))
	}
}

func TestAFrameIsMadeOnceForAllHosts(t *testing.T) {
	f := newFolder(t)
	all := entries(f.generation("a", same), f.generation("b", same))
	cache := NewCache(f)
	want := send(t, cache, all, Default)
	made, views := cache.Made(), f.views.Load()
	for range 15 {
		if !bytes.Equal(send(t, cache, all, Default), want) {
			t.Fatal("another result")
		}
	}
	if cache.Made() != made || f.views.Load() != views {
		t.Errorf("%d frames were made, then %d; %d views, then %d", made, cache.Made(), views, f.views.Load())
	}
}

func TestACacheForgetsWhatWasNotAskedForLast(t *testing.T) {
	f := newFolder(t)
	var specs []Spec
	for n := range 6 {
		specs = append(specs, Spec{Entries: []Entry{{Info: f.add(hashPart("a", n)+"-x", map[string][]byte{"x": program(uint64(n), 100_000)})}}})
	}
	cache := newCache(f, 200_000)
	get := func(n int) {
		t.Helper()
		if _, err := cache.Get(specs[n], Default).Bytes(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for n := range specs {
		get(n)
		get(0)
	}
	if cache.size > cache.memory || cache.done.Len() != len(cache.frames) {
		t.Errorf("%d bytes, %d frames, %d known", cache.size, cache.done.Len(), len(cache.frames))
	}
	made := cache.Made()
	get(0)
	if cache.Made() != made {
		t.Error("what was asked for last was forgotten")
	}
	get(1)
	if cache.Made() != made+1 {
		t.Error("nothing was forgotten")
	}
}

func TestALevelIsTheNearestOfZstds(t *testing.T) {
	var got []string
	for _, level := range []int{1, 2, 3, 5, 7, 9, 12, 22} {
		got = append(got, fmt.Sprint(level, "=", LevelOf(level)))
	}
	if text := strings.Join(got, " "); text != "1=1 2=1 3=2 5=2 7=3 9=3 12=4 22=4" {
		t.Error(text)
	}
}

func BenchmarkPack(b *testing.B) {
	f := newFolder(b)
	old, rebuilt := f.generation("a", same), f.generation("b", same)
	for name, all := range map[string][]Entry{"rebuilt": entries(old, rebuilt), "fresh": entries(make([]closure.PathInfo, len(rebuilt)), rebuilt)} {
		for _, level := range []Level{None, Fastest, Default, Better, Best} {
			b.Run(fmt.Sprintf("%s/level=%d", name, level), func(b *testing.B) {
				b.SetBytes(int64(total(all)))
				for b.Loop() {
					send(b, NewCache(f), all, level)
				}
			})
		}
	}
}
