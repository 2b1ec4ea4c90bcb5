package duplicates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"fleet/closure"
	"fleet/closure/nar"
	"fleet/closure/pack"
	"fleet/closure/storepath"
)

// store is one of folders. It counts what is opened and read.
type store struct {
	t      testing.TB
	dir    string
	random *rand.Rand
	opened sync.Map
	read   atomic.Int64
	open   atomic.Int64
}

func newStore(t testing.TB) *store {
	return &store{t: t, dir: t.TempDir(), random: rand.New(rand.NewPCG(1, 26))}
}

func (s *store) View(_ context.Context, path storepath.Path) (closure.View, error) {
	s.opened.Store(path.Name(), true)
	view, err := nar.OpenView(filepath.Join(s.dir, path.Base()))
	if err != nil {
		return nil, err
	}
	s.open.Add(1)
	return &countedView{view, s}, nil
}

type countedView struct {
	*nar.View
	store *store
}

func (v *countedView) ReadAt(data []byte, off int64) (int, error) {
	v.store.read.Add(int64(len(data)))
	return v.View.ReadAt(data, off)
}

func (v *countedView) Close() error {
	v.store.open.Add(-1)
	return v.View.Close()
}

func (s *store) noise(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(s.random.Uint32())
	}
	return data
}

// add makes a path of files, named by their numbers.
func (s *store) add(name string, files ...[]byte) storepath.Info {
	s.t.Helper()
	path, err := storepath.ParseBase(storepath.EncodeBase32(s.noise(20)) + "-" + name)
	if err != nil {
		s.t.Fatal(err)
	}
	dir := filepath.Join(s.dir, path.Base())
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	for i, data := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d", i)), data, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	view, err := nar.OpenView(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer view.Close()
	return storepath.Info{Path: path, NarSize: uint64(view.Size())}
}

// find makes a plan, and checks that what it says of contents is so.
func (s *store) find(r Request) *Plan {
	s.t.Helper()
	plan, err := Find(s.t.Context(), s, r)
	if err != nil {
		s.t.Fatal(err)
	}
	if n := s.open.Load(); n != 0 {
		s.t.Errorf("%d views are open", n)
	}
	for path, base := range plan.Bases {
		target, from := s.bytes(path), s.bytes(base.Info.Path)
		end := int64(0)
		for _, c := range base.Copies {
			if c.Target < end {
				s.t.Errorf("the copies of %q overlap: %v", path, base.Copies)
			}
			end = c.Target + c.Size
			if string(target[c.Target:end]) != string(from[c.Base:][:c.Size]) {
				s.t.Errorf("%q does not have at %d what %q has at %d", path, c.Target, base.Info.Path, c.Base)
			}
		}
	}
	return plan
}

func (s *store) bytes(path storepath.Path) []byte {
	s.t.Helper()
	view, err := nar.OpenView(filepath.Join(s.dir, path.Base()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer view.Close()
	data, err := io.ReadAll(io.NewSectionReader(view, 0, view.Size()))
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

// names are the bases of paths, by their names.
func (p *Plan) names() map[string]string {
	names := map[string]string{}
	for path, base := range p.Bases {
		names[path.Name()] = base.Info.Path.Name()
	}
	return names
}

func (p *Plan) keptNames() (names []string) {
	for path := range p.Kept {
		names = append(names, path.Name())
	}
	return names
}

func TestEqualFilesAreFound(t *testing.T) {
	const mib = 1 << 20
	type paths struct{ sent, have []storepath.Info }
	for _, tt := range []struct {
		rule  string
		paths func(s *store) paths
		bases map[string]string
		kept  []string
	}{
		{"within a path, which is kept where it has segments between", func(s *store) paths {
			a, b := s.noise(mib), s.noise(mib)
			return paths{sent: []storepath.Info{s.add("small", a, s.noise(100), a), s.add("large", b, s.noise(8*mib), b)}}
		}, map[string]string{"small": "small", "large": "large"}, []string{"large"}},
		{"in a path that is sent before, and is kept", func(s *store) paths {
			a := s.noise(2 * mib)
			return paths{sent: []storepath.Info{s.add("first", a), s.add("second", s.noise(1000), a)}}
		}, map[string]string{"second": "first"}, []string{"first"}},
		{"in what the receiver has, rather than in what it would have to keep", func(s *store) paths {
			a := s.noise(2 * mib)
			return paths{[]storepath.Info{s.add("first", a), s.add("second", a, s.noise(1000), a)}, []storepath.Info{s.add("old", a)}}
		}, map[string]string{"first": "old", "second": "old"}, nil},
		{"where there are most of them", func(s *store) paths {
			a, b := s.noise(mib), s.noise(mib+1)
			return paths{[]storepath.Info{s.add("new", a, b)}, []storepath.Info{s.add("some", a, s.noise(mib)), s.add("most", b, a)}}
		}, map[string]string{"new": "most"}, nil},
		{"not where files only have one size", func(s *store) paths {
			return paths{sent: []storepath.Info{s.add("first", s.noise(2*mib)), s.add("second", s.noise(2*mib))}}
		}, map[string]string{}, nil},
		{"not where only a piece is equal", func(s *store) paths {
			a := s.noise(2 * mib)
			b := append(a[:2*mib-1:2*mib-1], a[2*mib-1]^1)
			return paths{sent: []storepath.Info{s.add("first", a), s.add("second", b)}}
		}, map[string]string{}, nil},
		{"not in small paths, and no small files", func(s *store) paths {
			a, tiny := s.noise(mib/2), s.noise(MinFile-1)
			var many [][]byte
			for range 40 {
				many = append(many, tiny)
			}
			return paths{sent: []storepath.Info{s.add("small", a), s.add("too", a), s.add("tiny", many...)}}
		}, map[string]string{}, nil},
		{"not where little comes of it", func(s *store) paths {
			a := s.noise(minGain - 1)
			b := s.noise(minGain)
			return paths{sent: []storepath.Info{s.add("first", a, b, s.noise(mib)), s.add("less", a, s.noise(mib)), s.add("part", b, s.noise(minGain*minShare+mib))}}
		}, map[string]string{}, nil},
		{"not among what the receiver has", func(s *store) paths {
			a := s.noise(mib)
			return paths{[]storepath.Info{s.add("new", s.noise(mib))}, []storepath.Info{s.add("old", a), s.add("older", a)}}
		}, map[string]string{}, nil},
		{"only so near within a path that both cannot be held", func(s *store) paths {
			a := s.noise(pack.SelfDistance - 4<<10)
			return paths{sent: []storepath.Info{s.add("near", a, a, s.noise(mib))}}
		}, map[string]string{}, nil},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			s := newStore(t)
			p := tt.paths(s)
			plan := s.find(Request{Sent: p.sent, Have: p.have, Room: pack.MaxKept})
			if got := plan.names(); !reflect.DeepEqual(got, tt.bases) {
				t.Errorf("bases: %v, not %v", got, tt.bases)
			}
			if got := plan.keptNames(); !reflect.DeepEqual(got, tt.kept) {
				t.Errorf("kept: %v, not %v", got, tt.kept)
			}
		})
	}
}

func TestNothingIsKeptBeyondTheRoom(t *testing.T) {
	const mib = 1 << 20
	s := newStore(t)
	a, b := s.noise(2*mib), s.noise(3*mib)
	one, two := s.add("one", a), s.add("two", b)
	likeOne, likeTwo := s.add("like-one", a, s.noise(10)), s.add("like-two", b, s.noise(10))
	sent := []storepath.Info{one, two, likeOne, likeTwo}
	for room, want := range map[uint64]map[string]string{
		0:                             {},
		one.NarSize:                   {"like-one": "one"},
		one.NarSize + two.NarSize - 1: {"like-one": "one"},
		one.NarSize + two.NarSize:     {"like-one": "one", "like-two": "two"},
	} {
		plan := s.find(Request{Sent: sent, Room: room})
		if got := plan.names(); !reflect.DeepEqual(got, want) || plan.KeptSize > room {
			t.Errorf("room for %d bytes: %v, which keeps %d", room, got, plan.KeptSize)
		}
	}
}

func TestNothingIsReadWhereNoSizeCoincides(t *testing.T) {
	const mib = 1 << 20
	s := newStore(t)
	sent := []storepath.Info{s.add("one", s.noise(mib)), s.add("two", s.noise(mib+1), s.noise(mib+2))}
	have := []storepath.Info{s.add("old", s.noise(mib+3)), s.add("same", s.noise(mib+4), s.noise(mib+4))}
	s.find(Request{Sent: sent, Have: have, Room: pack.MaxKept})
	if read := s.read.Load(); read != 0 {
		t.Errorf("%d bytes were read", read)
	}
	// Of equal sizes alone, pieces are.
	s.find(Request{Sent: append(sent, s.add("three", s.noise(mib))), Have: have, Room: pack.MaxKept})
	if read := s.read.Load(); read != 2*sampleSize {
		t.Errorf("%d bytes were read", read)
	}
}

func TestWhatTheReceiverHasIsNotLookedAtForNothing(t *testing.T) {
	s := newStore(t)
	have := []storepath.Info{s.add("old", s.noise(2<<20))}
	for _, sent := range [][]storepath.Info{nil, {s.add("small", s.noise(1000))}, {s.add("many", s.noise(MinFile-1), make([]byte, MinFile-2))}} {
		s.find(Request{Sent: sent, Have: have, Room: pack.MaxKept})
		if _, opened := s.opened.Load("old"); opened {
			t.Errorf("for %v", sent)
		}
	}
}

func TestThoseOfOneOriginAreLookedAtFirst(t *testing.T) {
	s := newStore(t)
	f := finder{paths: []storepath.Info{{Path: s.add("git-doc-2").Path, NarSize: 2 << 20}}}
	var have []storepath.Info
	for _, name := range []string{"a", "b", "gitlab", "git-1", "c"} {
		have = append(have, storepath.Info{Path: s.add(name).Path, NarSize: leastHave/2 + 1})
	}
	var got []string
	for _, info := range f.candidates(append(have, storepath.Info{Path: s.add("git").Path, NarSize: MinPath - 1})) {
		got = append(got, info.Path.Name())
	}
	if want := []string{"git-1", "a"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}

func TestWhatCannotBeReadIsLeftOut(t *testing.T) {
	const mib = 1 << 20
	s := newStore(t)
	a := s.noise(2 * mib)
	sent := []storepath.Info{s.add("gone", a), s.add("changed", a), s.add("good", a), s.add("like", a)}
	if err := os.RemoveAll(filepath.Join(s.dir, sent[0].Path.Base())); err != nil {
		t.Fatal(err)
	}
	sent[1].NarSize++
	if got := s.find(Request{Sent: sent, Room: pack.MaxKept}).names(); !reflect.DeepEqual(got, map[string]string{"like": "good"}) {
		t.Errorf("%v", got)
	}
}

func TestTheEndOfTheContextEndsASearch(t *testing.T) {
	s := newStore(t)
	a := s.noise(2 << 20)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := Find(ctx, s, Request{Sent: []storepath.Info{s.add("one", a), s.add("two", a)}, Room: pack.MaxKept}); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}

func TestAPlanDoesNotDependOnChance(t *testing.T) {
	s := newStore(t)
	var sent, have []storepath.Info
	pool := make([][]byte, 6)
	for i := range pool {
		pool[i] = s.noise(200<<10 + i%3)
	}
	for i := range 30 {
		var files [][]byte
		for range 6 {
			files = append(files, pool[s.random.IntN(len(pool))])
		}
		if info := s.add(strconv.Itoa(i), files...); i < 20 {
			sent = append(sent, info)
		} else {
			have = append(have, info)
		}
	}
	want := s.find(Request{Sent: sent, Have: have, Room: 5 << 20})
	if len(want.Bases) < 10 {
		t.Errorf("%d bases", len(want.Bases))
	}
	for range 10 {
		if got := s.find(Request{Sent: sent, Have: have, Room: 5 << 20}); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, then %+v", want, got)
		}
	}
}

func TestAPlanWithoutSomeBases(t *testing.T) {
	s := newStore(t)
	a, b := s.noise(2<<20), s.noise(3<<20)
	plan := s.find(Request{Sent: []storepath.Info{s.add("a", a), s.add("b", b)}, Have: []storepath.Info{s.add("had-a", a), s.add("had-b", b)}})
	left := plan.Without([]int{0})
	if len(plan.Moved) != 2 || len(plan.Bases) != 2 || !reflect.DeepEqual(left.names(), map[string]string{"b": "had-b"}) {
		t.Errorf("%v without the first of %v: %v", plan.names(), plan.Moved, left.names())
	}
}

// BenchmarkFind plans for a fresh system of some thousand files, of which few are large, and for one of which as much is on the host.
func BenchmarkFind(b *testing.B) {
	s := newStore(b)
	var sent, have []storepath.Info
	for i := range 100 {
		var files [][]byte
		for range 60 {
			files = append(files, make([]byte, 1+s.random.IntN(40_000)))
		}
		files = append(files, s.noise(100_000+s.random.IntN(400_000)), s.noise(500_000+s.random.IntN(1_000_000)))
		if info := s.add(fmt.Sprint("package", i), files...); i%2 == 0 {
			sent = append(sent, info)
		} else {
			have = append(have, info)
		}
	}
	for name, r := range map[string]Request{"fresh": {Sent: sent}, "beside 50 others": {Sent: sent, Have: have}} {
		r.Room = pack.MaxKept
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s.find(r)
			}
		})
	}
}
