package push

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet/closure/chunk"
	"fleet/closure/delta"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

func TestWhatOnlyTheHostHasIsNotSentAgain(t *testing.T) {
	same := func([]byte) []byte { return nil }
	for _, tt := range []struct {
		rule    string
		n, size int
		change  func([]byte) []byte
		// most is what may be sent, in percent of a whole push.
		most float64
	}{
		{"a rebuild", 4, 2_000_000, same, 2},
		{"a rebuild of small paths", 110, 40_000, same, 3},
		{"a patch", 4, 2_000_000, func(data []byte) []byte { return slices.Insert(data, len(data)/3, []byte("patched here")...) }, 10},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			l := newLab(t)
			h, empty := l.host(t, hostOptions{}), l.host(t, hostOptions{})
			old := l.chain(t, tt.n, tt.size)
			push(t, connect(t, l.connector(), h.spec("root")), old)
			h.runs(t, old)
			fresh := l.changed(t, old, tt.n, tt.change)
			l.lose(t, old)
			whole := push(t, connect(t, l.connector(), empty.spec("root")), fresh)
			c, r := l.connector(), &recorder{}
			c.Reporter = r
			result := push(t, connect(t, c, h.spec("root")), fresh)
			share := 100 * float64(result.WireBytes) / float64(whole.WireBytes)
			t.Logf("%d bytes crossed for %d of NARs, %.2f %% of the %d of a whole push", result.WireBytes, result.NarBytes, share, whole.WireBytes)
			if share > tt.most || result.Paths != uint64(tt.n) {
				t.Errorf("%.2f %% were sent for %d paths, want %.2f at most", share, result.Paths, tt.most)
			}
			if r.count("sent whole") != 0 || r.count("damaged") != 0 {
				t.Errorf("%v", r.events)
			}
			h.sh(t, "nix-store --check-validity $(nix-store --query --requisites "+fresh.String()+")")
			if got, want := h.sh(t, "sha256sum <"+fresh.String()), command(t, "sh", "-c", "sha256sum <"+fresh.String()); strings.Fields(got)[0] != strings.Fields(want)[0] {
				t.Error("the contents differ")
			}
		})
	}
}

// renew adds to another store what a rebuild makes of a system: other hashes, and a few other bytes.
func (s *memoryStore) renew(t *testing.T, old *memoryStore, root storepath.Path) storepath.Path {
	t.Helper()
	graph, err := old.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	renewed := map[storepath.Path]storepath.Path{}
	var pairs []string
	for _, path := range graph.Topological() {
		info, _ := graph.Info(path)
		renewed[path] = s.add(t, path.Name(), 2)
		pairs = append(pairs, path.Hash(), renewed[path].Hash())
		data := []byte(strings.NewReplacer(pairs...).Replace(string(old.nars[path])))
		copy(data[len(data)/2:], "changed")
		var refs []storepath.Path
		for _, ref := range info.References {
			refs = append(refs, renewed[ref])
		}
		s.put(renewed[path], data, refs...)
	}
	return renewed[root]
}

// own makes a host say truly what it holds, its paths as view shows them.
func (h *memoryHost) own(view func(storepath.Path) []byte) proto.HandlerFunc {
	return func(_ context.Context, req *proto.Request) (any, error) {
		if req.Method == proto.MethodHoldings {
			var result proto.HoldingsResult
			for path, info := range h.store.infos {
				result.Paths = append(result.Paths, fmt.Sprint(path.Base(), " ", info.NarSize))
			}
			return result, nil
		}
		var params proto.SignaturesRequest
		if err := req.Decode(&params); err != nil {
			return nil, err
		}
		for _, line := range params.Bases {
			fields := strings.Fields(line)
			path, err := storepath.ParseBase(fields[0])
			if err != nil {
				return nil, err
			}
			pairs := map[string]string{}
			for _, field := range fields[1:] {
				place, err := strconv.Atoi(field)
				if err != nil {
					return nil, err
				}
				from, to, _ := strings.Cut(params.Pairs[place], " ")
				pairs[from] = to
			}
			refs, err := delta.NewRefs(pairs)
			if err != nil {
				return nil, err
			}
			text := []byte{proto.SignatureFollows}
			seen := delta.NewView(bytes.NewReader(view(path)), refs)
			err = chunk.NewCutter(chunk.Key(params.Key)).Cut(seen, seen.Size(), func(c chunk.Chunk) error { text = chunk.Append(text, c); return nil })
			if err != nil {
				return nil, err
			}
			if _, err := req.Stream.Write(text); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
}

func TestAHostThatLiesAboutWhatItHasCostsBytes(t *testing.T) {
	const n, size = 5, 1_200_000
	endless := func(_ context.Context, req *proto.Request) (any, error) {
		for {
			if _, err := req.Stream.Write(bytes.Repeat([]byte{proto.SignatureFollows, 0xff}, 5000)); err != nil {
				return nil, err
			}
		}
	}
	for name, tt := range map[string]struct {
		signs func(h *memoryHost, mine map[string][]byte) proto.HandlerFunc
		// whole says that all is sent as it is, warned that the user is told why.
		whole, warned bool
		// patience is how long an answer is waited for; 0 is the default.
		patience time.Duration
	}{
		"it does not": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return h.own(func(path storepath.Path) []byte { return h.store.nars[path] })
		}, false, false, 0},
		"it claims to have what is new": {func(h *memoryHost, mine map[string][]byte) proto.HandlerFunc {
			return h.own(func(path storepath.Path) []byte { return mine[path.Name()] })
		}, true, false, 0},
		"its signatures do not end": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return h.except(proto.MethodSignatures, endless)
		}, true, true, 0},
		"its signatures are cut": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return h.except(proto.MethodSignatures, func(_ context.Context, req *proto.Request) (any, error) {
				_, err := req.Stream.Write([]byte{proto.SignatureFollows, 0xff, 0xff, 1, 2})
				return nil, err
			})
		}, true, true, 0},
		"it has no signatures": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return h.except(proto.MethodSignatures, func(_ context.Context, req *proto.Request) (any, error) {
				_, err := req.Stream.Write(make([]byte, n))
				return nil, err
			})
		}, true, false, 0},
		"it sends something else": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return h.except(proto.MethodSignatures, func(_ context.Context, req *proto.Request) (any, error) {
				_, err := req.Stream.Write([]byte("\x1b]0;hello\a"))
				return nil, err
			})
		}, true, true, 0},
		"it says nothing": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return h.except(proto.MethodSignatures, func(ctx context.Context, _ *proto.Request) (any, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
		}, true, true, 2 * time.Second},
		"it does not say what it has": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return func(context.Context, *proto.Request) (any, error) {
				return nil, &proto.Error{Code: proto.CodeInternal, Message: "no\x1b[2J"}
			}
		}, true, true, 0},
		"it has what is no path": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return func(context.Context, *proto.Request) (any, error) {
				return proto.HoldingsResult{Paths: proto.Lines{"../etc/passwd 5"}}, nil
			}
		}, true, true, 0},
		"it has paths of no size": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return func(context.Context, *proto.Request) (any, error) {
				return proto.HoldingsResult{Paths: proto.Lines{strings.Repeat("0", 32) + "-part-1 -1"}}, nil
			}
		}, true, true, 0},
		"its paths are larger than any": {func(h *memoryHost, _ map[string][]byte) proto.HandlerFunc {
			return func(context.Context, *proto.Request) (any, error) {
				result := proto.HoldingsResult{}
				for i := range n {
					result.Paths = append(result.Paths, fmt.Sprintf("%032d-part-%d %d", 0, i, uint64(1)<<62))
				}
				return result, nil
			}
		}, true, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, source := newMemoryHost(), newMemoryStore()
			source.random = rand.New(rand.NewPCG(3, 4))
			old := h.store.system(t, n, size)
			fresh := source.renew(t, h.store, old)
			mine := map[string][]byte{}
			for path, data := range source.nars {
				mine[path.Name()] = data
			}
			h.info.Current = old.String()
			h.other = tt.signs(h, mine)
			c, r := connectorTo(t, source, h), &recorder{}
			c.Reporter, c.Timeouts.Answer = r, tt.patience
			result, err := h.session(t, c).Push(t.Context(), PushRequest{Roots: []storepath.Path{fresh}})
			if err != nil {
				t.Fatal(err)
			}
			if !h.store.has(t, source, fresh) {
				t.Error("the host does not have what was pushed")
			}
			// Half of each path can be compressed away.
			share := 100 * float64(result.WireBytes) / (n * size / 2)
			t.Logf("%.1f %% of a whole push crossed", share)
			if !tt.whole && share > 10 || tt.whole && (share < 90 || share > 500) {
				t.Errorf("%.1f %% of a whole push crossed", share)
			}
			if warned := r.count("sent whole") > 0; warned != tt.warned || r.count("\x1b") > 0 {
				t.Errorf("the user is told: %t, %+v", warned, r.events)
			}
		})
	}
}

func TestWhatHostsHaveIsComparedOnceForAll(t *testing.T) {
	const n, size = 5, 1_200_000
	h, other, source := newMemoryHost(), newMemoryHost(), newMemoryStore()
	source.random = rand.New(rand.NewPCG(3, 4))
	old := h.store.system(t, n, size)
	fresh := source.renew(t, h.store, old)
	for path, info := range h.store.infos {
		other.store.put(path, h.store.nars[path], info.References...)
	}
	c := connectorTo(t, source, h, other)
	opened := make([]int, 2)
	for i, host := range []*memoryHost{h, other} {
		host.info.Current = old.String()
		host.other = host.own(func(path storepath.Path) []byte { return host.store.nars[path] })
		result, err := host.session(t, c).Push(t.Context(), PushRequest{Roots: []storepath.Path{fresh}})
		if err != nil {
			t.Fatal(err)
		}
		if result.WireBytes > n*size/20 || !host.store.has(t, source, fresh) {
			t.Errorf("%d bytes to host %d", result.WireBytes, i)
		}
		opened[i] = source.opened
	}
	if opened[0] == 0 || opened[1] != opened[0] {
		t.Errorf("paths were opened %d times for one host, %d for two", opened[0], opened[1])
	}
}

// except is own, but for one method.
func (h *memoryHost) except(method string, f proto.HandlerFunc) proto.HandlerFunc {
	own := h.own(func(path storepath.Path) []byte { return h.store.nars[path] })
	return func(ctx context.Context, req *proto.Request) (any, error) {
		if req.Method == method {
			return f(ctx, req)
		}
		return own(ctx, req)
	}
}
