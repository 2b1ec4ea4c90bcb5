package push

import (
	"context"

	"fleet/closure"
	"fleet/closure/duplicates"
	"fleet/closure/pack"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// freeShare is how many times a host's store must have free what the host is to keep besides: it mostly lies on the same disk.
const freeShare = 8

// withDuplicates adds to a manifest what paths without a base are made of: paths that the host has under other names, that are sent before them, or themselves. Of the
// first kind the host is asked whether it has them, unless it has said so.
func (t *transfer) withDuplicates(ctx context.Context, l *link, asked *survey, m manifest) (manifest, error) {
	m, plan, err := t.planned(ctx, asked, m)
	if err != nil || plan == nil {
		return m, err
	}
	m.gone, err = t.askMoved(ctx, l, asked, m, plan)
	m.twice = plan.Without(m.gone)
	return m, err
}

// planned returns the plan of a manifest, nil where nothing has a base, and the manifest as it is for a host with as much room as this one.
func (t *transfer) planned(ctx context.Context, asked *survey, m manifest) (manifest, *duplicates.Plan, error) {
	if m.plain {
		return m, nil, nil
	}
	plan, err := asked.plan(ctx, t.s.c.Source, m)
	if err != nil {
		return m, nil, err
	}
	info := t.s.Info()
	if room := min(info.SpoolFree, info.StoreFree/freeShare); plan.KeptSize > room && !m.alone {
		m.alone = true
		return t.planned(ctx, asked, m)
	}
	return m, plan, nil
}

// plan is what the paths of a manifest are made of. Hosts that lack the same share it.
func (s *survey) plan(ctx context.Context, source closure.Source, m manifest) (*duplicates.Plan, error) {
	find := func() (*duplicates.Plan, error) {
		request := duplicates.Request{Sent: s.baseless(m), Have: s.have, Room: pack.MaxKept}
		if m.alone {
			request.Room = 0
		}
		return duplicates.Find(ctx, source, request)
	}
	key := m.key()
	s.mu.Lock()
	plan, found := s.plans[key]
	if !found {
		if len(s.plans) >= maxCargoes {
			clear(s.plans)
		}
		plan = newOnce[*duplicates.Plan]()
		s.plans[key] = plan
	}
	s.mu.Unlock()
	if found {
		return plan.wait(ctx, find)
	}
	return plan.make(find, func() {
		if plan.err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.plans, key)
		}
	})
}

// baseless are the missing paths that are sent without a base, but for those that arrived damaged: they are sent as they are.
func (s *survey) baseless(m manifest) []closure.PathInfo {
	var baseless []closure.PathInfo
	baseOf := s.basesOf(m)
	for _, place := range m.missing {
		info, _ := s.graph.Info(s.paths[place])
		if _, _, ok := baseOf(info.Path); !ok && !m.whole[info.Path] {
			baseless = append(baseless, info)
		}
	}
	return baseless
}

// askMoved asks the host for the paths from which files have moved, and returns the places in the plan of those that it does not have, or has with other contents.
func (t *transfer) askMoved(ctx context.Context, l *link, asked *survey, m manifest, plan *duplicates.Plan) (gone []int, err error) {
	accepted := asked.accepted(m)
	var open []int
	var request proto.MissingRequest
	for place, base := range plan.Moved {
		if !accepted[base.Path] {
			open, request.Bases = append(open, place), append(request.Bases, baseLine(base))
		}
	}
	if len(open) == 0 {
		return nil, nil
	}
	// Bases are looked at where something is missing; all of it was named before.
	request.Paths = proto.Lines{asked.paths[m.missing[0]].Base()}
	var result proto.MissingResult
	if err := l.ask(ctx, proto.MethodMissing, request, &result); err != nil {
		return nil, err
	}
	if !places(result.Refused, len(open)) {
		return nil, &proto.Error{Code: proto.CodeInternal, Message: "the host refuses bases that it was not asked for"}
	}
	if len(result.Missing) == 0 {
		return open, nil
	}
	for _, place := range result.Refused {
		gone = append(gone, open[place])
	}
	return gone, nil
}

// accepted are the bases that the host has said it has.
func (s *survey) accepted(m manifest) map[storepath.Path]bool {
	accepted := make(map[storepath.Path]bool, len(s.bases))
	for _, base := range s.bases {
		accepted[base.Path] = true
	}
	for _, place := range m.refused {
		delete(accepted, s.bases[place].Path)
	}
	return accepted
}
