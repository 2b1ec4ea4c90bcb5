package push

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"

	"fleet/closure"
	"fleet/closure/delta"
	"fleet/closure/duplicates"
	"fleet/closure/pack"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// survey is what a push asks of a host before it sends anything. Hosts that are to have the same, and have the same, share one; it is not changed after it was made, but for
// its cargoes.
type survey struct {
	graph *closure.Graph
	// all are the graph's paths in the order in which they are sent, and paths those that the host may lack: all, but what the closures of known hold.
	all, paths []storepath.Path
	// known are toplevels that the host says it has, and whose closures we know.
	known []storepath.Path
	// strangers are toplevels that the host says it has, and whose closures we do not know.
	strangers []storepath.Path
	// predecessors are what deltas of paths are made against, and bases the same without repetitions.
	predecessors map[storepath.Path]closure.PathInfo
	bases        []closure.PathInfo
	// foreign are the paths whose predecessors only the host has, with what they have in common with these. It is nil before the host was asked.
	foreign map[storepath.Path][]delta.Copy
	// have are the paths of known, those first that the graph does not hold.
	have []closure.PathInfo

	mu      sync.Mutex
	cargoes map[[sha256.Size]byte]*cargo
	// plans are those of manifests, without what they say of plans.
	plans map[[sha256.Size]byte]*once[*duplicates.Plan]
}

// cargo is what is sent to a host: units, and the paths that they bring. Hosts that lack the same share one; it is not changed.
type cargo struct {
	specs []pack.Spec
	// keys are the specs' keys.
	keys []pack.Keys
	// infos are the paths, and bytes the size of their NARs together.
	infos []closure.PathInfo
	bytes uint64
}

// manifest says what of a survey a host lacks, and how it is sent.
type manifest struct {
	// missing are places in paths, refused places in bases, both ascending.
	missing, refused []int
	// whole are the paths that are sent without a base.
	whole map[storepath.Path]bool
	// plain says that all are.
	plain bool
	// signer signs the paths; nil leaves them as they are.
	signer *closure.SigningKey
	// alone says that the host keeps nothing of what is sent, for what is sent later.
	alone bool
	// twice is what paths without a base are made of, and gone are the places of those bases in the whole plan that the host does not have, ascending.
	twice duplicates.Plan
	gone  []int
}

// maxSurveys bounds the surveys that are kept, and maxCargoes the cargoes of each: a fleet whose hosts are all in different states does not share any.
const (
	maxSurveys = 32
	maxCargoes = 16
)

// surveys makes each survey once. It is safe for concurrent use.
type surveys struct {
	mu    sync.Mutex
	known map[string]*once[*survey]
	// order are the keys of known, oldest first.
	order []string
}

// get returns the survey of that key, made by the first who asks. What could not be made is tried again by the next one who asks.
func (s *surveys) get(ctx context.Context, key string, build func() (*survey, error)) (*survey, error) {
	s.mu.Lock()
	entry, found := s.known[key]
	if !found {
		entry = newOnce[*survey]()
		s.add(key, entry)
	}
	s.mu.Unlock()
	if found {
		return entry.wait(ctx, build)
	}
	return entry.make(build, func() {
		if entry.err != nil {
			s.remove(key, entry)
		}
	})
}

func (s *surveys) add(key string, entry *once[*survey]) {
	if s.known == nil {
		s.known = make(map[string]*once[*survey])
	}
	s.known[key] = entry
	if s.order = append(s.order, key); len(s.order) > maxSurveys {
		delete(s.known, s.order[0])
		s.order = s.order[1:]
	}
}

func (s *surveys) remove(key string, entry *once[*survey]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[key] == entry {
		delete(s.known, key)
		s.order = slices.DeleteFunc(s.order, func(k string) bool { return k == key })
	}
}

// survey finds out what there is to ask. The host has said what it runs and boots; where our store still has that, its closure need not be asked for, and is
// what new paths are compared with.
func (t *transfer) survey(ctx context.Context) (*survey, error) {
	claimed := t.s.claimed()
	key := strings.Join(append(append(pathStrings(t.graph.Roots()), fmt.Sprint(t.asksAll)), pathStrings(claimed)...), " ")
	return t.s.c.surveys.get(ctx, key, func() (*survey, error) {
		return makeSurvey(ctx, t.s.c.Source, t.graph, claimed, t.asksAll)
	})
}

// Toplevels are the toplevels that a host names, each once. What is none is left out: a host says what it likes.
func Toplevels(names ...string) []storepath.Path {
	var toplevels []storepath.Path
	for _, name := range names {
		// A specialisation may be named within its toplevel.
		if path, err := storepath.Containing(name); err == nil && !slices.Contains(toplevels, path) {
			toplevels = append(toplevels, path)
		}
	}
	return toplevels
}

// makeSurvey makes the survey of a graph for a host that claims to have toplevels; asksAll asks for what they hold, too.
func makeSurvey(ctx context.Context, source closure.Source, graph *closure.Graph, claimed []storepath.Path, asksAll bool) (*survey, error) {
	s := newSurvey(graph, levels(graph))
	var have []closure.PathInfo
	there := map[storepath.Path]bool{}
	for _, toplevel := range claimed {
		closureOf, err := source.Closure(ctx, toplevel)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			s.strangers = append(s.strangers, toplevel) // it was built elsewhere, or collected here
			continue
		}
		s.known = append(s.known, toplevel)
		for _, path := range closureOf.Topological() {
			if info, _ := closureOf.Info(path); !there[path] {
				there[path] = true
				have = append(have, info)
			}
		}
	}
	if asksAll {
		s.known, there = nil, nil
	}
	s.paths = slices.DeleteFunc(slices.Clone(s.all), func(path storepath.Path) bool { return there[path] })
	s.predecessors = closure.ChooseBases(s.infos(s.paths), have)
	s.have = goneFirst(have, graph)
	chosen := map[storepath.Path]bool{}
	for _, path := range s.paths {
		if base, ok := s.predecessors[path]; ok && !chosen[base.Path] {
			chosen[base.Path] = true
			s.bases = append(s.bases, base)
		}
	}
	return s, nil
}

func newSurvey(graph *closure.Graph, all []storepath.Path) *survey {
	return &survey{graph: graph, all: all, cargoes: make(map[[sha256.Size]byte]*cargo), plans: make(map[[sha256.Size]byte]*once[*duplicates.Plan])}
}

// goneFirst puts those first that a graph does not hold.
func goneFirst(have []closure.PathInfo, graph *closure.Graph) []closure.PathInfo {
	var gone, stays []closure.PathInfo
	for _, info := range have {
		if _, ok := graph.Info(info.Path); ok {
			stays = append(stays, info)
		} else {
			gone = append(gone, info)
		}
	}
	return append(gone, stays...)
}

// withAll is the survey of a host that does not have what it has said: all paths are asked for.
func (s *survey) withAll() *survey {
	with := newSurvey(s.graph, s.all)
	with.paths, with.strangers, with.predecessors, with.bases, with.have = s.all, s.strangers, s.predecessors, s.bases, s.have
	return with
}

func (s *survey) infos(paths []storepath.Path) []closure.PathInfo {
	infos := make([]closure.PathInfo, len(paths))
	for i, path := range paths {
		infos[i], _ = s.graph.Info(path)
	}
	return infos
}

// request is the survey as it crosses.
func (s *survey) request(roots []proto.RootRequest) proto.MissingRequest {
	request := proto.MissingRequest{Known: pathStrings(s.known), Roots: roots, Paths: make(proto.Lines, len(s.paths)), Bases: make(proto.Lines, len(s.bases))}
	for i, path := range s.paths {
		request.Paths[i] = path.Base()
	}
	for i, base := range s.bases {
		request.Bases[i] = baseLine(base)
	}
	return request
}

// baseLine is a base as it crosses.
func baseLine(base closure.PathInfo) string {
	return base.Path.Base() + " " + hex.EncodeToString(base.NarHash[:])[:proto.BaseSumLength]
}

// places says whether places in a list of so many are ascending, and in it.
func places(list []int, length int) bool {
	for i, place := range list {
		if place < 0 || place >= length || i > 0 && place <= list[i-1] {
			return false
		}
	}
	return true
}

// cargo is what is sent of what is missing.
func (s *survey) cargo(m manifest) *cargo {
	key := m.key()
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.cargoes[key]; known != nil {
		return known
	}
	c := s.load(m)
	if len(s.cargoes) >= maxCargoes {
		clear(s.cargoes)
	}
	s.cargoes[key] = c
	return c
}

func (s *survey) load(m manifest) *cargo {
	baseOf := s.basesOf(m)
	c := &cargo{}
	items := make([]pack.Item, len(m.missing))
	for i, place := range m.missing {
		info, _ := s.graph.Info(s.paths[place])
		c.infos = append(c.infos, info)
		c.bytes += info.NarSize
		if m.signer != nil {
			// The graph shares its slices with other pushes.
			info.Signatures = append(slices.Clone(info.Signatures), m.signer.Sign(info))
		}
		items[i] = pack.Item{Info: info, Keep: m.twice.Kept[info.Path]}
		if base, copies, ok := baseOf(info.Path); ok {
			items[i].Base, items[i].Refs, items[i].Copies = base, s.refs(info, base), copies
		} else if base, ok := m.twice.Bases[info.Path]; ok {
			items[i].Base, items[i].Copies = base.Info, base.Copies
		}
	}
	c.specs = pack.Layout(items)
	for _, spec := range c.specs {
		c.keys = append(c.keys, spec.Keys())
	}
	return c
}

// basesOf returns what finds the base of a path among the host's own, as far as a manifest allows it.
func (s *survey) basesOf(m manifest) func(storepath.Path) (base closure.PathInfo, copies []delta.Copy, ok bool) {
	refused := make(map[storepath.Path]bool, len(m.refused))
	for _, place := range m.refused {
		refused[s.bases[place].Path] = true
	}
	return func(path storepath.Path) (closure.PathInfo, []delta.Copy, bool) {
		base, copies, ok := s.base(path)
		return base, copies, ok && !refused[base.Path] && !m.whole[path] && !m.plain
	}
}

// refs are the hash parts that change from the base of a path to the path: its own, and those of references that have a predecessor.
func (s *survey) refs(info, base closure.PathInfo) map[string]string {
	refs := map[string]string{base.Path.Hash(): info.Path.Hash()}
	for _, reference := range info.References {
		earlier, ok := s.predecessors[reference]
		if !ok {
			continue
		}
		if _, taken := refs[earlier.Path.Hash()]; !taken {
			refs[earlier.Path.Hash()] = reference.Hash()
		}
	}
	return refs
}

// key identifies the cargo of a manifest among those of one survey. What paths are made of follows from the rest.
func (m manifest) key() [sha256.Size]byte {
	var data []byte
	for _, list := range [][]int{m.missing, m.refused, m.gone} {
		data = binary.AppendUvarint(data, uint64(len(list)))
		for _, place := range list {
			data = binary.AppendUvarint(data, uint64(place))
		}
	}
	for _, path := range sortedPaths(m.whole) {
		data = append(data, path.Base()...)
		data = append(data, '\n')
	}
	signer := ""
	if m.signer != nil {
		signer = m.signer.PublicKey().String()
	}
	return sha256.Sum256(fmt.Appendf(data, "%t %t %s", m.plain, m.alone, signer))
}

func sortedPaths(set map[storepath.Path]bool) []storepath.Path {
	paths := make([]storepath.Path, 0, len(set))
	for path := range set {
		paths = append(paths, path)
	}
	storepath.Sort(paths)
	return paths
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
