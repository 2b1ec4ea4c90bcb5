package push

import (
	"container/list"
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"fleet/closure"
	"fleet/closure/pack"
)

// maxBest is how many workers are at the best level at once. Each takes some 250 MB for it, and as much again until that is collected; two are more than a link
// is fast for which that level pays.
const maxBest = 2

// defaultUnitMemory bounds the units that are kept, in bytes.
const defaultUnitMemory = 256 << 20

// packer makes units, one at a time; [pack.Packer] is one.
type packer interface {
	Pack(ctx context.Context, spec pack.Spec, level pack.Level) (pack.Unit, error)
}

// workshop makes units, each once for all hosts that need it, and keeps those that were used last. Its workers, as many as there are processors, take turns among
// the hosts, so that none waits for what another one has ordered. It is safe for concurrent use.
type workshop struct {
	ctx     context.Context
	cancel  context.CancelFunc
	workers int
	// limit bounds what is kept, in bytes. What is in use is kept in any case.
	limit int64
	// packers holds packers that nobody uses; the garbage collector takes those that nobody will.
	packers sync.Pool
	views   *viewCache
	warmer  warmer

	mu    sync.Mutex
	works map[workKey]*work
	// unused are the units that nobody uses, used last first. kept is the size of all units, used that of those in use, in bytes.
	unused     *list.List
	kept, used int64
	// turns are the lanes with orders, the next one first; open is how many lanes there are.
	turns []*lane
	open  int
	// busy are the workers that work, best those of them at the best level.
	busy, best int
	group      sync.WaitGroup
	meter      [kinds]costMeter
	// foreseen is what was ordered before it was known to be needed, in bytes of NARs.
	foreseen int64
	// asked and made are bytes of NARs, of which those long ago count less: their ratio is how many hosts share a unit.
	asked, made float64
}

// workKey names a unit: its spec's key for the level, and the level.
type workKey struct {
	spec  [32]byte
	level pack.Level
}

// at is the name of a unit at a level.
func at(keys pack.Keys, level pack.Level) workKey { return workKey{keys.At(level), level} }

// work is a unit that is ordered, being made, or made.
type work struct {
	key  workKey
	spec pack.Spec
	// users is how many wait for it or use it.
	users        int
	begun, ready bool
	done         chan struct{}
	unit         pack.Unit
	err          error
	place        *list.Element
}

// lane holds the orders of one host that were not begun, in order.
type lane struct {
	orders []*work
}

// order is what a host wants to have made.
type order struct {
	spec  pack.Spec
	keys  pack.Keys
	level pack.Level
	// exact says that no other level will do.
	exact bool
}

func newWorkshop(source closure.Source, limit int64) *workshop {
	ctx, cancel := context.WithCancel(context.Background())
	views := newViewCache(ctx, source)
	w := newWorkshopOf(ctx, cancel, func() packer { return pack.NewPacker(views) }, limit)
	w.views = views
	w.warmer.source, _ = source.(closure.Warmer)
	return w
}

func newWorkshopOf(ctx context.Context, cancel context.CancelFunc, newPacker func() packer, limit int64) *workshop {
	return &workshop{
		ctx: ctx, cancel: cancel, workers: runtime.GOMAXPROCS(0), limit: limit, packers: sync.Pool{New: func() any { return newPacker() }},
		works: make(map[workKey]*work), unused: list.New(),
	}
}

// close waits for what is being made and gives all up.
func (w *workshop) close() {
	w.cancel()
	w.group.Wait()
	if w.views != nil {
		w.views.close()
	}
}

// enter makes a lane for a host.
func (w *workshop) enter() *lane {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	return &lane{}
}

// leave ends a lane. All that was ordered over it has been released before.
func (w *workshop) leave(*lane) {
	w.mu.Lock()
	w.open--
	w.mu.Unlock()
	w.rest()
}

// rest closes what is open of our store, once no host is there and nobody works.
func (w *workshop) rest() {
	w.mu.Lock()
	idle := w.open == 0 && w.busy == 0
	w.mu.Unlock()
	if idle && w.views != nil {
		w.views.close()
	}
}

// choose is the order of a cargo's unit, at the level that is best over a link that carries rate bytes/s, unless the order has one.
func (w *workshop) choose(o order, c *cargo, n int, rate float64) order {
	o.spec, o.keys = c.specs[n], c.keys[n]
	if !o.exact {
		kind := kindOf(o.spec)
		costs, workers := w.costs(kind)
		o.level = chooseLevel(costs, rate, workers, kind)
	}
	return o
}

// order orders a unit. It is used, and so kept, until it is released.
func (w *workshop) order(l *lane, o order) *work {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked += float64(o.spec.NAR())
	job := w.find(o)
	if job == nil {
		job = &work{key: at(o.keys, o.level), spec: o.spec, done: make(chan struct{})}
		w.works[job.key] = job
	}
	if job.users++; job.users == 1 && job.ready {
		w.unused.Remove(job.place)
		job.place = nil
		w.used += int64(len(job.unit.Bytes))
	}
	if !job.begun {
		w.queue(l, job)
	}
	return job
}

// find returns a unit that is known and will do: of the level that is wanted, else a better one, else the next one below.
func (w *workshop) find(o order) *work {
	if job := w.works[at(o.keys, o.level)]; job != nil || o.exact {
		return job
	}
	for level := o.level + 1; level <= pack.Best; level++ {
		if job := w.works[at(o.keys, level)]; job != nil {
			return job
		}
	}
	if below := o.level - 1; below >= pack.Fastest && acceptable(below, o.level) {
		return w.works[at(o.keys, below)]
	}
	return nil
}

// queue puts an order into a lane, and sees to it that somebody works.
func (w *workshop) queue(l *lane, job *work) {
	if l.orders = append(l.orders, job); len(l.orders) == 1 {
		w.turns = append(w.turns, l)
	}
	if w.busy < w.workers {
		w.busy++
		w.group.Go(w.run)
	}
}

// run works until nothing is ordered.
func (w *workshop) run() {
	p := w.packers.Get().(packer)
	defer w.packers.Put(p)
	for {
		w.mu.Lock()
		job := w.next()
		if job == nil {
			w.busy--
			w.mu.Unlock()
			w.rest()
			return
		}
		job.begun = true
		if job.key.level == pack.Best {
			w.best++
		}
		w.mu.Unlock()
		began := time.Now()
		unit, err := p.Pack(w.ctx, job.spec, job.key.level)
		w.finish(job, unit, err, time.Since(began))
	}
}

// next takes the next order of the lane whose turn it is. Orders at the best level have to wait for those workers that are at it: there is one, or comes back, as
// long as there are such orders.
func (w *workshop) next() *work {
	for waiting := 0; waiting < len(w.turns); {
		l := w.turns[0]
		w.turns = w.turns[1:]
		job := l.orders[0]
		if job.key.level == pack.Best && w.best >= maxBest && !job.begun && job.users > 0 {
			w.turns = append(w.turns, l)
			waiting++
			continue
		}
		waiting = 0
		if l.orders = l.orders[1:]; len(l.orders) > 0 {
			w.turns = append(w.turns, l)
		}
		// Another lane's turn may have come first, and nobody may want it any more.
		if !job.begun && job.users > 0 {
			return job
		}
	}
	return nil
}

func (w *workshop) finish(job *work, unit pack.Unit, err error, spent time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if job.key.level == pack.Best {
		w.best--
	}
	job.unit, job.err = unit, err
	close(job.done)
	if err != nil {
		// The next one who asks may have better luck.
		delete(w.works, job.key)
		return
	}
	job.ready = true
	w.meter[kindOf(job.spec)].add(job.key.level, unit, spent)
	w.count(float64(unit.NAR))
	size := int64(len(unit.Bytes))
	if w.kept += size; job.users > 0 {
		w.used += size
	} else {
		job.place = w.unused.PushFront(job)
	}
	w.evict()
}

// count notes bytes that were made.
func (w *workshop) count(nar float64) {
	const memory = 256 << 20
	if w.made += nar; w.made > memory {
		w.made, w.asked = w.made/2, w.asked/2
	}
}

// wait returns a unit once it is made.
func (w *workshop) wait(ctx context.Context, job *work) (pack.Unit, error) {
	select {
	case <-job.done:
		if job.err != nil && w.ctx.Err() != nil {
			return pack.Unit{}, errors.New("make a unit: the connector is closed")
		}
		return job.unit, job.err
	case <-ctx.Done():
		return pack.Unit{}, context.Cause(ctx)
	}
}

// release says that a unit is not used any more by one who ordered it.
func (w *workshop) release(job *work) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if job.users--; job.users > 0 || job.err != nil {
		return
	}
	switch {
	case job.ready:
		w.used -= int64(len(job.unit.Bytes))
		job.place = w.unused.PushFront(job)
		w.evict()
	case !job.begun:
		delete(w.works, job.key)
	}
}

// evict forgets the units whose last use is longest ago.
func (w *workshop) evict() {
	for w.kept > w.limit && w.unused.Len() > 0 {
		job := w.unused.Remove(w.unused.Back()).(*work)
		delete(w.works, job.key)
		w.kept -= int64(len(job.unit.Bytes))
	}
}

// crowded says that units in use take all the memory there is: who has one should not order more.
func (w *workshop) crowded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used >= w.limit
}

// foresee takes room for orders that may turn out not to be needed, or gives it back; false where there is none.
func (w *workshop) foresee(nar int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if nar > 0 && w.foreseen+nar > headStartNAR {
		return false
	}
	w.foreseen += nar
	return true
}

// alone says that there is one host.
func (w *workshop) alone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open == 1
}

// costs are those of levels for a kind of units, and how many workers one host can count on: all where the hosts share what is made, else its share.
func (w *workshop) costs(k kind) (c costs, workers float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	hosts := max(1, float64(w.open))
	shared := 1.0
	if w.made > 0 {
		shared = min(max(1, w.asked/w.made), hosts)
	}
	c = w.meter[k].costs()
	if w.open > 1 {
		// What is made for several hosts crosses this machine's own link as often; and one over whose link it pays to compress would have to make it again.
		c[pack.Stored].speed = 0
	}
	return c, float64(w.workers) * shared / hosts
}
