package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// store is one of NARs in memory. It counts the views that are open.
type store struct {
	mu   sync.Mutex
	nars map[storepath.Path][]byte
	open int
}

func newStore() *store { return &store{nars: make(map[storepath.Path][]byte)} }

func (s *store) Open(path storepath.Path) (View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.nars[path]
	if !ok {
		return nil, fmt.Errorf("there is no %q", path)
	}
	s.open++
	return &storeView{bytes.NewReader(data), s}, nil
}

type storeView struct {
	*bytes.Reader
	store *store
}

func (v *storeView) Close() error {
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	v.store.open--
	return nil
}

// add puts a NAR into the store, and returns what a store knows of it.
func (s *store) add(path storepath.Path, data []byte, refs ...storepath.Path) storepath.Info {
	s.nars[path] = data
	refs = append([]storepath.Path(nil), refs...)
	storepath.Sort(refs)
	return storepath.Info{Path: path, NarHash: sha256.Sum256(data), NarSize: uint64(len(data)), References: refs}
}

// remember is a sink that verifies, and keeps what it got.
type remember struct {
	*store
	infos []storepath.Info
	bases map[storepath.Path]storepath.Path
}

var errHash = errors.New("the NAR has another hash")

func newRemember() *remember {
	return &remember{store: newStore(), bases: make(map[storepath.Path]storepath.Path)}
}

func (r *remember) Path(_ context.Context, info storepath.Info, base storepath.Path, nar io.Reader) error {
	data, err := io.ReadAll(nar)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); sum != info.NarHash || uint64(len(data)) != info.NarSize {
		return errHash
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nars[info.Path] = data
	r.bases[info.Path] = base
	r.infos = append(r.infos, info)
	return nil
}

// world makes store paths and their contents from a seed.
type world struct {
	*rand.Rand
}

func newWorld(seed uint64) world { return world{rand.New(rand.NewPCG(seed, 26))} }

func (w world) hash() string {
	data := make([]byte, hashSize)
	w.fill(data)
	return storepath.EncodeBase32(data)
}

func (w world) fill(data []byte) {
	for i := range data {
		data[i] = byte(w.Uint32())
	}
}

func (w world) path(name string) storepath.Path {
	path, err := storepath.ParseBase(w.hash() + "-" + name)
	if err != nil {
		panic(err)
	}
	return path
}

// text is compressible, and holds the given store paths. Longer ones repeat themselves, with changes.
func (w world) text(size int, refs []storepath.Path) []byte {
	const longest = 128 << 10
	words := strings.Fields("the quick unit of a service starts after network target exec path environment")
	var text bytes.Buffer
	for text.Len() < min(size, longest) {
		fmt.Fprintf(&text, "%s=%s-%d\n", words[w.IntN(len(words))], words[w.IntN(len(words))], w.IntN(1000))
		if len(refs) > 0 && w.IntN(20) == 0 {
			fmt.Fprintf(&text, "ExecStart=%s/bin/run\n", refs[w.IntN(len(refs))])
		}
	}
	for text.Len() < size {
		again := bytes.Clone(text.Bytes()[:longest])
		w.fill(again[w.IntN(longest-500):][:500])
		text.Write(again)
	}
	return text.Bytes()[:size]
}

// file is the NAR of a file.
func file(contents []byte) []byte {
	var out bytes.Buffer
	text := func(text string) {
		out.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(text))))
		out.WriteString(text)
		out.Write(make([]byte, -len(text)&7))
	}
	for _, part := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		text(part)
	}
	text(string(contents))
	text(")")
	return out.Bytes()
}

// dumped is the NAR of a tree on disk.
func dumped(t testing.TB, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := nar.Dump(&out, dir); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// rebuilt is what a rebuild of everything adds to a store: other hashes everywhere, nothing else.
func rebuilt(w world, old *store, infos []storepath.Info) (*store, []Item) {
	hashes := make(map[string]string)
	var pairs []string
	for _, info := range infos {
		hashes[info.Path.Hash()] = w.hash()
		pairs = append(pairs, info.Path.Hash(), hashes[info.Path.Hash()])
	}
	replacer := strings.NewReplacer(pairs...)
	renewed := newStore()
	maps.Copy(renewed.nars, old.nars)
	var items []Item
	for _, info := range infos {
		refs := make(map[string]string)
		var references []storepath.Path
		for _, ref := range info.References {
			refs[ref.Hash()] = hashes[ref.Hash()]
			references = append(references, mustPath(hashes[ref.Hash()]+"-"+ref.Name()))
		}
		refs[info.Path.Hash()] = hashes[info.Path.Hash()]
		path := mustPath(hashes[info.Path.Hash()] + "-" + info.Path.Name())
		made := renewed.add(path, []byte(replacer.Replace(string(old.nars[info.Path]))), references...)
		items = append(items, Item{Info: made, Base: info, Refs: refs})
	}
	return renewed, items
}

func mustPath(base string) storepath.Path {
	path, err := storepath.ParseBase(base)
	if err != nil {
		panic(err)
	}
	return path
}

// tiny makes a store of many small paths, each of which refers to some before it.
func tiny(w world, count, size int) (*store, []storepath.Info) {
	s := newStore()
	var infos []storepath.Info
	var paths []storepath.Path
	for i := range count {
		var refs []storepath.Path
		for range min(len(paths), w.IntN(5)) {
			if ref := paths[max(0, len(paths)-1-w.IntN(100))]; !contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
		path := w.path(fmt.Sprintf("unit-%s-%d.service", []string{"network", "user", "dbus", "getty"}[w.IntN(4)], i))
		infos = append(infos, s.add(path, file(w.text(size/2+w.IntN(size), refs)), refs...))
		paths = append(paths, path)
	}
	return s, infos
}

func contains(paths []storepath.Path, path storepath.Path) bool {
	for _, p := range paths {
		if p == path {
			return true
		}
	}
	return false
}

// plain are items without bases.
func plain(infos []storepath.Info) []Item {
	var items []Item
	for _, info := range infos {
		items = append(items, Item{Info: info})
	}
	return items
}

// packAll makes all units of a list.
func packAll(t testing.TB, views Views, items []Item, level Level) []Unit {
	t.Helper()
	p := NewPacker(views)
	defer p.Close()
	var units []Unit
	for _, spec := range Layout(items) {
		unit, err := p.Pack(context.Background(), spec, level)
		if err != nil {
			t.Fatal(err)
		}
		if unit.NAR != spec.NAR() {
			t.Fatalf("a unit says %d bytes of NARs, its spec %d", unit.NAR, spec.NAR())
		}
		units = append(units, unit)
	}
	return units
}

// unpackAll hands units to a sink.
func unpackAll(views Views, sink Sink, units []Unit) error {
	u := NewUnpacker(context.Background(), views, sink, diskSpool)
	defer u.Close()
	for _, unit := range units {
		if err := u.Unit(unit.Bytes); err != nil {
			return err
		}
	}
	return u.End()
}

func sumOf(units []Unit) (bytes int, nars, deltas uint64) {
	for _, unit := range units {
		bytes += len(unit.Bytes)
		nars += unit.NAR
		deltas += unit.Delta
	}
	return bytes, nars, deltas
}
