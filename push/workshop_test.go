package push

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"fleet/closure"
	"fleet/closure/pack"
	"fleet/closure/storepath"
)

// countingPacker makes units of a size, counts them, and waits for leave where one is needed.
type countingPacker struct {
	mu    sync.Mutex
	made  map[workKey]int
	order []string
	size  int
	leave chan struct{}
	fail  error
}

func (p *countingPacker) Pack(ctx context.Context, spec pack.Spec, level pack.Level) (pack.Unit, error) {
	if p.leave != nil {
		select {
		case <-p.leave:
		case <-ctx.Done():
			return pack.Unit{}, ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made[at(spec.Keys(), level)]++
	p.order = append(p.order, spec.Items[0].Info.Path.Name())
	if p.fail != nil {
		return pack.Unit{}, p.fail
	}
	return pack.Unit{Bytes: make([]byte, p.size), NAR: spec.NAR()}, nil
}

func (p *countingPacker) total() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, times := range p.made {
		n += times
	}
	return n
}

func (p *countingPacker) workshop(t *testing.T, limit int64, workers int) *workshop {
	p.made = map[workKey]int{}
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorkshopOf(ctx, cancel, func() packer { return p }, limit)
	w.workers = workers
	t.Cleanup(w.close)
	return w
}

// testOrder orders a unit of one path.
func testOrder(name string, level pack.Level) order {
	path, err := storepath.ParseBase(fmt.Sprintf("%032d-%s", 0, name))
	if err != nil {
		panic(err)
	}
	spec := pack.Spec{Items: []pack.Item{{Info: storepath.Info{Path: path, NarSize: 1000}}}}
	return order{spec: spec, keys: spec.Keys(), level: level}
}

func TestAUnitIsMadeOnceForAllHosts(t *testing.T) {
	p := &countingPacker{size: 10}
	w := p.workshop(t, 1<<20, 2)
	var hosts sync.WaitGroup
	for range 16 {
		hosts.Go(func() {
			l := w.enter()
			defer w.leave(l)
			for i := range 50 {
				job := w.order(l, testOrder(fmt.Sprint("unit-", i), pack.Default))
				if unit, err := w.wait(t.Context(), job); err != nil || len(unit.Bytes) != 10 {
					t.Errorf("%d bytes, %v", len(unit.Bytes), err)
				}
				w.release(job)
			}
		})
	}
	hosts.Wait()
	if n := p.total(); n != 50 {
		t.Errorf("50 units were made %d times", n)
	}
}

func TestUnitsUsedLongAgoAreForgotten(t *testing.T) {
	p := &countingPacker{size: 100}
	w := p.workshop(t, 350, 1)
	l := w.enter()
	use := func(name string) *work {
		job := w.order(l, testOrder(name, pack.Default))
		if _, err := w.wait(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		return job
	}
	held := use("held")
	for _, name := range []string{"a", "b", "c", "a", "d"} {
		w.release(use(name))
	}
	if w.kept > 350 || w.used != 100 {
		t.Errorf("%d bytes are kept, %d used", w.kept, w.used)
	}
	before := p.total()
	w.release(use("held"))
	w.release(use("d"))
	w.release(use("a"))
	if n := p.total() - before; n != 0 {
		t.Errorf("%d units that are in use, or were used last, were made again", n)
	}
	w.release(use("b"))
	if n := p.total() - before; n != 1 {
		t.Errorf("the one used longest ago was made %d times again", n)
	}
	w.release(held)
	if w.crowded() || w.used != 0 {
		t.Errorf("%d bytes are in use", w.used)
	}
	for _, name := range []string{"x1", "x2", "x3", "x4"} {
		held = use(name)
	}
	if !w.crowded() {
		t.Error("there is memory for more")
	}
	_ = held
}

func TestWorkersTakeTurnsAmongHosts(t *testing.T) {
	p := &countingPacker{leave: make(chan struct{})}
	w := p.workshop(t, 1<<20, 1)
	greedy, modest := w.enter(), w.enter()
	var jobs []*work
	for i := range 10 {
		jobs = append(jobs, w.order(greedy, testOrder(fmt.Sprint("greedy-", i), pack.Default)))
	}
	for i := range 2 {
		jobs = append(jobs, w.order(modest, testOrder(fmt.Sprint("modest-", i), pack.Default)))
	}
	close(p.leave)
	for _, job := range jobs {
		if _, err := w.wait(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	last := 0
	for i, name := range p.order {
		if name == "modest-1" {
			last = i
		}
	}
	if last > 5 {
		t.Errorf("the second host waited: %q", p.order)
	}
}

func TestFewWorkersAreAtTheBestLevelAtOnce(t *testing.T) {
	p := &countingPacker{leave: make(chan struct{})}
	w := p.workshop(t, 1<<20, 4)
	l := w.enter()
	defer w.leave(l)
	var best []*work
	for i := range 3 * maxBest {
		best = append(best, w.order(l, testOrder(fmt.Sprint("best-", i), pack.Best)))
	}
	other := w.enter()
	defer w.leave(other)
	quick := w.order(other, testOrder("quick", pack.Default))
	w.mu.Lock()
	if w.best > maxBest {
		t.Errorf("%d workers are at the best level", w.best)
	}
	w.mu.Unlock()
	for made := false; !made; {
		select {
		case p.leave <- struct{}{}:
		case <-quick.done:
			made = true
		}
	}
	close(p.leave)
	for _, job := range append(best, quick) {
		if _, err := w.wait(t.Context(), job); err != nil {
			t.Error(err)
		}
		w.release(job)
	}
}

func TestWhatNobodyWantsIsNotMade(t *testing.T) {
	p := &countingPacker{leave: make(chan struct{})}
	w := p.workshop(t, 1<<20, 1)
	a, b := w.enter(), w.enter()
	first := w.order(a, testOrder("first", pack.Default))
	second, again := w.order(a, testOrder("second", pack.Default)), w.order(b, testOrder("second", pack.Default))
	third := w.order(a, testOrder("third", pack.Default))
	w.release(second)
	w.release(third)
	close(p.leave)
	for _, job := range []*work{first, again} {
		if _, err := w.wait(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	w.close()
	if n := p.total(); n != 2 {
		t.Errorf("%d units were made: %q", n, p.order)
	}
}

func TestALevelNearbyWillDo(t *testing.T) {
	for _, tt := range []struct {
		have, want pack.Level
		exact      bool
		units      int
	}{
		{pack.Default, pack.Default, false, 1}, {pack.Default, pack.Better, false, 1}, {pack.Default, pack.Best, false, 2},
		{pack.Best, pack.Fastest, false, 1}, {pack.Better, pack.Fastest, false, 1}, {pack.Better, pack.Default, true, 2},
	} {
		p := &countingPacker{}
		w := p.workshop(t, 1<<20, 1)
		l := w.enter()
		for _, level := range []pack.Level{tt.have, tt.want} {
			o := testOrder("unit", level)
			o.exact = tt.exact
			job := w.order(l, o)
			if _, err := w.wait(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			w.release(job)
		}
		if n := p.total(); n != tt.units {
			t.Errorf("%v where %v is wanted: %d units were made, want %d", tt.have, tt.want, n, tt.units)
		}
	}
}

func TestAUnitThatFailedIsTriedAgain(t *testing.T) {
	p := &countingPacker{fail: errors.New("no")}
	w := p.workshop(t, 1<<20, 1)
	l := w.enter()
	for range 2 {
		job := w.order(l, testOrder("unit", pack.Default))
		if _, err := w.wait(t.Context(), job); err == nil {
			t.Error("no error")
		}
		w.release(job)
	}
	if n := p.total(); n != 2 {
		t.Errorf("it was tried %d times", n)
	}
}

func TestAHostsShareOfTheWorkers(t *testing.T) {
	w := (&countingPacker{}).workshop(t, 1<<20, 4)
	for range 8 {
		w.enter()
	}
	for rule, tt := range map[string]struct{ asked, made, want float64 }{
		"nothing was made yet":   {0, 0, 0.5},
		"they share nothing":     {100, 100, 0.5},
		"they share all":         {800, 100, 4},
		"they share a part":      {400, 100, 2},
		"no more than there are": {9000, 100, 4},
	} {
		w.asked, w.made = tt.asked, tt.made
		if _, workers := w.costs(kindPlain); workers != tt.want {
			t.Errorf("%s: %v workers, want %v", rule, workers, tt.want)
		}
	}
}

// memoryView is a NAR in memory that knows whether it is open.
type memoryView struct {
	*bytes.Reader
	open *int
	mu   *sync.Mutex
}

func (v memoryView) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	*v.open--
	return nil
}

// memorySource is a store in memory.
type memorySource struct {
	closure.Source
	nars map[storepath.Path][]byte

	mu           sync.Mutex
	open, opened int
}

func (s *memorySource) View(_ context.Context, path storepath.Path) (closure.View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.nars[path]
	if !ok {
		return nil, fmt.Errorf("%q is not there", path)
	}
	s.open++
	s.opened++
	return memoryView{bytes.NewReader(data), &s.open, &s.mu}, nil
}

func TestViewsOfLargePathsAreSharedAndClosed(t *testing.T) {
	s := &memorySource{nars: map[storepath.Path][]byte{}}
	var paths []storepath.Path
	for i := range maxViews + 5 {
		path := testOrder(fmt.Sprint("large-", i), 0).spec.Items[0].Info.Path
		s.nars[path] = make([]byte, pack.SmallNAR+1)
		paths = append(paths, path)
	}
	small := testOrder("small", 0).spec.Items[0].Info.Path
	s.nars[small] = make([]byte, 10)
	c := newViewCache(t.Context(), s)
	use := func(path storepath.Path) {
		t.Helper()
		view, err := c.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var first [8]byte
		if _, err := view.ReadAt(first[:], 0); err != nil || binary.LittleEndian.Uint64(first[:]) != 0 {
			t.Error(err)
		}
		if err := view.Close(); err != nil {
			t.Error(err)
		}
	}
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range 200 {
				use(paths[rand.IntN(3)])
			}
		})
	}
	users.Wait()
	if s.opened > 3*4 || s.open != 3 {
		t.Errorf("opened %d times, %d are open", s.opened, s.open)
	}
	for _, path := range append(paths, small) {
		use(path)
	}
	if s.open != maxViews {
		t.Errorf("%d are open", s.open)
	}
	c.close()
	if s.open != 0 || len(c.views) != 0 {
		t.Errorf("%d are open at the end", s.open)
	}
}
