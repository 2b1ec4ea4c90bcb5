package closure

import (
	"cmp"
	"container/heap"
	"slices"

	"fleet/closure/storepath"
)

// sized is a path or a base in the order of their sizes, with its neighbours that are not paired yet, -1 where there is none.
type sized struct {
	PathInfo
	base, paired bool
	before, next int
}

// neighbours are a path and a base that only paired ones lie between.
type neighbours struct {
	first, second int
	distance      uint64
}

// pairBySize pairs paths with bases, one to one, until either is used up: of all that are left, always those two whose sizes are nearest.
// These are neighbours in the order of sizes, so it takes n log n steps.
func pairBySize(paths, bases []PathInfo) map[storepath.Path]PathInfo {
	p := sizePairs{list: make([]sized, 0, len(paths)+len(bases))}
	for _, info := range paths {
		p.list = append(p.list, sized{PathInfo: info})
	}
	for _, info := range bases {
		p.list = append(p.list, sized{PathInfo: info, base: true})
	}
	slices.SortFunc(p.list, func(a, b sized) int {
		return cmp.Or(cmp.Compare(a.NarSize, b.NarSize), a.Path.Compare(b.Path))
	})
	for i := range p.list {
		p.list[i].before, p.list[i].next = i-1, i+1
	}
	if len(p.list) > 0 {
		p.list[len(p.list)-1].next = -1
	}
	for i := 1; i < len(p.list); i++ {
		p.propose(i-1, i)
	}
	return p.pair()
}

// sizePairs is a heap of what may be paired.
type sizePairs struct {
	list []sized
	open []neighbours
}

func (p *sizePairs) pair() map[storepath.Path]PathInfo {
	pairs := make(map[storepath.Path]PathInfo)
	for len(p.open) > 0 {
		n := heap.Pop(p).(neighbours)
		a, b := &p.list[n.first], &p.list[n.second]
		if a.paired || b.paired {
			continue
		}
		a.paired, b.paired = true, true
		if a.base {
			pairs[b.Path] = a.PathInfo
		} else {
			pairs[a.Path] = b.PathInfo
		}
		p.join(a.before, b.next)
	}
	return pairs
}

// join makes neighbours of two between which all are paired.
func (p *sizePairs) join(first, second int) {
	if first >= 0 {
		p.list[first].next = second
	}
	if second >= 0 {
		p.list[second].before = first
	}
	if first >= 0 && second >= 0 {
		p.propose(first, second)
	}
}

func (p *sizePairs) propose(first, second int) {
	a, b := p.list[first], p.list[second]
	if a.base != b.base {
		heap.Push(p, neighbours{first, second, b.NarSize - a.NarSize})
	}
}

// Len is that of [heap.Interface], as are the others.
func (p *sizePairs) Len() int { return len(p.open) }

func (p *sizePairs) Less(i, k int) bool {
	a, b := p.open[i], p.open[k]
	return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.first, b.first)) < 0
}

func (p *sizePairs) Swap(i, k int) { p.open[i], p.open[k] = p.open[k], p.open[i] }

func (p *sizePairs) Push(n any) { p.open = append(p.open, n.(neighbours)) }

func (p *sizePairs) Pop() any {
	last := p.open[len(p.open)-1]
	p.open = p.open[:len(p.open)-1]
	return last
}
