package push

import (
	"context"
	"sync"
)

// headStart are the first units of what a host will be sent if it lacks all that it is asked for. They are made while it answers, and while it opens the transfer:
// on a long way, the first of them are there by then. Where the host has some of it, most of them are needed all the same.
type headStart struct {
	shop  *workshop
	group sync.WaitGroup
	cargo *cargo
	jobs  []*work
	// nar is how much of the workshop's room is taken.
	nar int64
}

// headStart begins to make the first units. The caller gives them back. Where others serve or describe what is new, too little is known before the answer.
func (t *transfer) headStart(ctx context.Context, l *link, asked *survey) *headStart {
	h := &headStart{shop: t.s.c.units()}
	if len(asked.paths) == 0 || len(asked.strangers) > 0 || t.request.Substitute && !t.substituted {
		return h
	}
	all := make([]int, len(asked.paths))
	for i := range all {
		all[i] = i
	}
	m, o, rate := t.manifest(all, nil), t.order(), supposedRate(l.rtt())
	h.group.Go(func() {
		m, plan, err := t.planned(ctx, asked, m)
		if err != nil {
			return // it is met again
		}
		if plan != nil {
			m.twice = plan.Without(nil)
		}
		h.cargo = asked.cargo(m)
		h.order(o, rate)
	})
	return h
}

// headStartNAR is how much is begun with for all hosts together, in bytes of NARs: what workers make while a host far away answers. What they have not come to by then
// is not made, unless it is needed. More would be made at a level that the link may turn out not to want.
const headStartNAR = 24 << 20

// order orders the first units, for a link of that rate.
func (h *headStart) order(o order, rate float64) {
	var lane lane // no host has entered yet
	for n, spec := range h.cargo.specs {
		nar := int64(spec.NAR())
		if !h.shop.foresee(nar) {
			return
		}
		h.nar += nar
		h.jobs = append(h.jobs, h.shop.order(&lane, h.shop.choose(o, h.cargo, n, rate)))
	}
}

// isOf says whether the units are those of a cargo.
func (h *headStart) isOf(c *cargo) bool {
	h.group.Wait()
	return h.cargo == c
}

// giveBack releases the units. Those that nobody else has ordered are made no more, if they were not begun. It may be called more than once.
func (h *headStart) giveBack() {
	h.group.Wait()
	for _, job := range h.jobs {
		h.shop.release(job)
	}
	h.shop.foresee(-h.nar)
	h.jobs, h.nar = nil, 0
}
