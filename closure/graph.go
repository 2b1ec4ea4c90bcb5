package closure

import (
	"fmt"
	"maps"
	"slices"

	"fleet/closure/storepath"
)

// Graph is a set of paths with their references. It is immutable, so it is safe for concurrent use.
//
// The order of everything that it returns depends on the paths alone, never on the order in which they were given.
type Graph struct {
	infos map[storepath.Path]PathInfo
	roots []storepath.Path
	order []storepath.Path
	sizes Sizes
}

// Sizes sums a graph up.
type Sizes struct {
	Paths int
	// NAR is the size of all NARs together, in bytes.
	NAR uint64
}

// OpenGraphError says that a graph lacks a path that it needs.
type OpenGraphError struct {
	Path storepath.Path
	// Referrer is the path that refers to it, or the zero Path where it is a root.
	Referrer storepath.Path
}

func (e *OpenGraphError) Error() string {
	if e.Referrer.IsZero() {
		return fmt.Sprintf("closure: nothing is known of root %q", e.Path)
	}
	return fmt.Sprintf("closure: nothing is known of %q, which %q refers to", e.Path, e.Referrer)
}

// CycleError says that paths refer to each other, which no store allows.
type CycleError struct {
	Path storepath.Path
}

func (e *CycleError) Error() string {
	return fmt.Sprintf("closure: path %q depends on itself through other paths", e.Path)
}

// NewGraph makes the graph of infos. Each root and each reference must be among them ([*OpenGraphError]), each path
// only once, and there must be no cycle ([*CycleError]) other than a path's reference to itself.
func NewGraph(roots []storepath.Path, infos []PathInfo) (*Graph, error) {
	byPath := make(map[storepath.Path]PathInfo, len(infos))
	for _, info := range infos {
		if info.Path.IsZero() {
			return nil, fmt.Errorf("closure: an info without a path")
		}
		if _, twice := byPath[info.Path]; twice {
			return nil, fmt.Errorf("closure: path %q is given twice", info.Path)
		}
		info.References = sortedUnique(info.References)
		byPath[info.Path] = info
	}
	for _, path := range slices.SortedFunc(maps.Keys(byPath), storepath.Compare) {
		for _, ref := range byPath[path].References {
			if _, ok := byPath[ref]; !ok {
				return nil, &OpenGraphError{Path: ref, Referrer: path}
			}
		}
	}
	for _, root := range roots {
		if _, ok := byPath[root]; !ok {
			return nil, &OpenGraphError{Path: root}
		}
	}
	return finishGraph(roots, byPath)
}

// finishGraph orders what is known to be complete.
func finishGraph(roots []storepath.Path, infos map[storepath.Path]PathInfo) (*Graph, error) {
	g := &Graph{infos: infos, roots: sortedUnique(roots)}
	order, err := topological(infos)
	if err != nil {
		return nil, err
	}
	g.order = order
	g.sizes.Paths = len(infos)
	for _, info := range infos {
		g.sizes.NAR += info.NarSize
	}
	return g, nil
}

// topological puts dependencies first. It keeps a stack of its own, since chains of references can be longer than ours should be.
func topological(infos map[storepath.Path]PathInfo) ([]storepath.Path, error) {
	type visit struct {
		path storepath.Path
		next int
	}
	order := make([]storepath.Path, 0, len(infos))
	// A path is absent before its visit, false during it and true after it.
	finished := make(map[storepath.Path]bool, len(infos))
	for _, start := range slices.SortedFunc(maps.Keys(infos), storepath.Compare) {
		if _, seen := finished[start]; seen {
			continue
		}
		finished[start] = false
		stack := []visit{{path: start}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			refs := infos[top.path].References
			if top.next == len(refs) {
				finished[top.path] = true
				order = append(order, top.path)
				stack = stack[:len(stack)-1]
				continue
			}
			ref := refs[top.next]
			top.next++
			_, known := infos[ref]
			done, seen := finished[ref]
			switch {
			case !known || done || ref == top.path:
			case seen:
				return nil, &CycleError{Path: ref}
			default:
				finished[ref] = false
				stack = append(stack, visit{path: ref})
			}
		}
	}
	return order, nil
}

// Roots returns the roots, sorted.
func (g *Graph) Roots() []storepath.Path { return slices.Clone(g.roots) }

// Len is the number of paths.
func (g *Graph) Len() int { return len(g.infos) }

// Sizes sums the graph up.
func (g *Graph) Sizes() Sizes { return g.sizes }

// Has says whether a path is in the graph.
func (g *Graph) Has(path storepath.Path) bool {
	_, ok := g.infos[path]
	return ok
}

// Info returns what is known of a path. Its slices must not be changed.
func (g *Graph) Info(path storepath.Path) (PathInfo, bool) {
	info, ok := g.infos[path]
	return info, ok
}

// Paths returns all paths, sorted.
func (g *Graph) Paths() []storepath.Path { return sortedUnique(g.order) }

// Topological returns all paths, each after those that it refers to.
func (g *Graph) Topological() []storepath.Path { return slices.Clone(g.order) }

// Subgraph returns the part of the graph that roots need. A root that is not in the graph is an [*OpenGraphError].
func (g *Graph) Subgraph(roots ...storepath.Path) (*Graph, error) {
	infos := make(map[storepath.Path]PathInfo)
	stack := slices.Clone(roots)
	for len(stack) > 0 {
		path := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if _, seen := infos[path]; seen {
			continue
		}
		info, ok := g.infos[path]
		if !ok {
			if slices.Contains(roots, path) {
				return nil, &OpenGraphError{Path: path}
			}
			// Only a graph that Without has made lacks references.
			continue
		}
		infos[path] = info
		stack = append(stack, info.References...)
	}
	return finishGraph(roots, infos)
}

// Without returns the graph without the paths that has names, such as those that the receiver has already. The rest may
// refer to paths that are not in the graph any more; its roots are those that are left.
func (g *Graph) Without(has func(storepath.Path) bool) *Graph {
	rest := &Graph{infos: make(map[storepath.Path]PathInfo)}
	for _, path := range g.order {
		if has(path) {
			continue
		}
		info := g.infos[path]
		rest.infos[path] = info
		rest.order = append(rest.order, path)
		rest.sizes.Paths++
		rest.sizes.NAR += info.NarSize
	}
	for _, root := range g.roots {
		if rest.Has(root) {
			rest.roots = append(rest.roots, root)
		}
	}
	return rest
}

func sortedUnique(paths []storepath.Path) []storepath.Path {
	sorted := slices.Clone(paths)
	storepath.Sort(sorted)
	return slices.Compact(sorted)
}
