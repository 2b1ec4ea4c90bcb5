package push

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/pack"
	"fleet/push/proto"
)

// survey is what a push asks of a host before it sends anything.
type survey struct {
	// paths are those that the host may lack, in the order in which they would be sent: all, but what the closures of known hold.
	paths []storepath.Path
	// known are toplevels that the host says it has, and whose closures we know.
	known []storepath.Path
	// predecessors are what deltas of paths are made against, and bases the same without repetitions.
	predecessors map[storepath.Path]closure.PathInfo
	bases        []closure.PathInfo
	// refused are the bases that the host does not have, or has otherwise.
	refused map[storepath.Path]bool
}

// survey finds out what there is to ask. The host has said what it runs and boots; where our store still has that, its closure need not be asked for, and is
// what new paths are compared with.
func (t *transfer) survey(ctx context.Context) (survey, error) {
	ask := survey{paths: t.order, refused: map[storepath.Path]bool{}}
	var have []closure.PathInfo
	there := map[storepath.Path]bool{}
	host := t.s.Info()
	for _, text := range []string{host.Current, host.Profile, host.Booted} {
		toplevel, err := storepath.Parse(text)
		if err != nil || slices.Contains(ask.known, toplevel) {
			continue
		}
		graph, err := t.s.c.Source.Closure(ctx, toplevel)
		if ctx.Err() != nil {
			return ask, context.Cause(ctx)
		}
		if err != nil {
			continue // it was built elsewhere, or collected here
		}
		ask.known = append(ask.known, toplevel)
		for _, path := range graph.Topological() {
			if info, _ := graph.Info(path); !there[path] {
				there[path] = true
				have = append(have, info)
			}
		}
	}
	if t.asksAll {
		ask.known, there = nil, nil
	}
	ask.paths = slices.DeleteFunc(slices.Clone(t.order), func(path storepath.Path) bool { return there[path] })
	ask.predecessors = closure.ChooseBases(t.infos(ask.paths), have)
	chosen := map[storepath.Path]bool{}
	for _, path := range ask.paths {
		if base, ok := ask.predecessors[path]; ok && !chosen[base.Path] {
			chosen[base.Path] = true
			ask.bases = append(ask.bases, base)
		}
	}
	return ask, nil
}

func (t *transfer) infos(paths []storepath.Path) []closure.PathInfo {
	infos := make([]closure.PathInfo, len(paths))
	for i, path := range paths {
		infos[i], _ = t.graph.Info(path)
	}
	return infos
}

// names are the paths as they cross.
func (q survey) names() proto.Lines {
	lines := make(proto.Lines, len(q.paths))
	for i, path := range q.paths {
		lines[i] = path.Base()
	}
	return lines
}

// baseLines are the bases as they cross.
func (q survey) baseLines() proto.Lines {
	lines := make(proto.Lines, len(q.bases))
	for i, base := range q.bases {
		lines[i] = base.Path.Base() + " " + hex.EncodeToString(base.NarHash[:])[:proto.BaseSumLength]
	}
	return lines
}

// entries are what is sent of the missing paths. A path that has arrived damaged is sent without a base.
func (t *transfer) entries(missing []closure.PathInfo, ask survey) []pack.Entry {
	entries := make([]pack.Entry, len(missing))
	for i, info := range missing {
		entries[i].Info = t.signed(info)
		base, ok := ask.predecessors[info.Path]
		if !ok || ask.refused[base.Path] || t.damaged[info.Path] {
			continue
		}
		entries[i].Base = base
		entries[i].Was = make([]string, len(info.References))
		for k, reference := range info.References {
			if earlier, ok := ask.predecessors[reference]; ok && reference != info.Path {
				entries[i].Was[k] = earlier.Path.Hash()
			}
		}
	}
	return entries
}

// levels orders the paths of a graph: those that need nothing first, then those that need only these, and so on, so that many can be registered at once. Within a
// level, those with similar names stand together: they compress well.
func levels(graph *closure.Graph) []storepath.Path {
	order := graph.Topological()
	depth := make(map[storepath.Path]int, len(order))
	for _, path := range order {
		info, _ := graph.Info(path)
		for _, reference := range info.References {
			if reference != path {
				depth[path] = max(depth[path], depth[reference]+1)
			}
		}
	}
	slices.SortStableFunc(order, func(a, b storepath.Path) int {
		return cmp.Or(cmp.Compare(depth[a], depth[b]), cmp.Compare(a.Name(), b.Name()), a.Compare(b))
	})
	return order
}
