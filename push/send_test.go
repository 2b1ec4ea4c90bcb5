package push

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/proto"
)

// pushTo pushes root to hosts at once and fails the test where one of them does not get it.
func pushTo(t *testing.T, source *memoryStore, c *Connector, root storepath.Path, hosts ...*memoryHost) []PushResult {
	t.Helper()
	results := make([]PushResult, len(hosts))
	var all sync.WaitGroup
	for i, h := range hosts {
		s := h.session(t, c)
		all.Go(func() {
			var err error
			results[i], err = s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}, RootName: "test"})
			if err != nil {
				t.Error(err)
			} else if !h.store.has(t, source, root) {
				t.Error("a host lacks a part of the closure")
			}
		})
	}
	all.Wait()
	return results
}

type reporterFunc func(plan.Event)

func (f reporterFunc) Emit(e plan.Event) { f(e) }

func memoryHosts(n int) []*memoryHost {
	hosts := make([]*memoryHost, n)
	for i := range hosts {
		hosts[i] = newMemoryHost()
	}
	return hosts
}

func TestSixteenHostsCostTheWorkOfOne(t *testing.T) {
	source := newMemoryStore()
	root := source.add(t, "top", 20_000, source.system(t, 40, 500_000), source.add(t, "large", 20_000_000))
	graph, err := source.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	hosts := memoryHosts(16)
	c := connectorTo(t, source, hosts...)
	results := pushTo(t, source, c, root, hosts...)
	for _, r := range results {
		if r.NarBytes != graph.Sizes().NAR || r.Paths != uint64(graph.Len()) {
			t.Errorf("%+v", r)
		}
	}
	shop := c.units()
	// Hosts that are faster at times may want another level.
	if made, once := shop.made, float64(graph.Sizes().NAR); made > 1.6*once {
		t.Errorf("%.1f MB were packed, one host's are %.1f MB", made/1e6, once/1e6)
	}
	shop.group.Wait()
	if shop.open != 0 || shop.used != 0 || source.open != 0 {
		t.Errorf("at the end %d lanes, %d bytes and %d views are open", shop.open, shop.used, source.open)
	}
}

func TestASlowHostHoldsNobodyBack(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 60, 1_000_000)
	slow, fast := newMemoryHost(), memoryHosts(3)
	slow.gate = make(chan struct{})
	c := connectorTo(t, source, append(fast, slow)...)
	// What the slow one does not fetch is forgotten.
	c.UnitMemory = 4 << 20
	s := slow.session(t, c)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}})
		ended <- err
	}()
	slow.gate <- struct{}{}
	pushTo(t, source, c, root, fast...)
	select {
	case err := <-ended:
		t.Fatalf("the slow host has ended: %v", err)
	default:
	}
	close(slow.gate)
	if err := <-ended; err != nil || !slow.store.has(t, source, root) {
		t.Errorf("the slow host afterwards: %v", err)
	}
	if shop := c.units(); shop.kept > 4<<20 {
		t.Errorf("%d bytes are kept", shop.kept)
	}
}

func TestAfterABreakSendingGoesOnWhereItWas(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 80, 1_000_000)
	h := newMemoryHost()
	c := connectorTo(t, source, h)
	h.cutAt.Store(20_000_000)
	result := pushTo(t, source, c, root, h)[0]
	if result.Paths != 80 || result.NarBytes < 79_000_000 {
		t.Errorf("%+v", result)
	}
	if n := strings.Count(strings.Join(h.requests(), " "), proto.MethodMissing); n != 1 {
		t.Errorf("it was asked %d times what is missing", n)
	}
	counts := map[uint32]int{}
	for _, n := range h.numbers {
		counts[n]++
	}
	for n, times := range counts {
		if times > 1 {
			t.Errorf("unit %d came whole %d times", n, times)
		}
	}
}

func TestAnAgentThatHasForgottenIsAskedAgain(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 40, 1_000_000)
	h := newMemoryHost()
	h.forget = true
	c := connectorTo(t, source, h)
	c.Level = 3 // so that what is sent depends on what is sent twice alone
	h.cutAt.Store(10_000_000)
	result := pushTo(t, source, c, root, h)[0]
	if result.Paths < 30 || result.WireBytes > 36_000_000 {
		t.Errorf("%+v", result)
	}
	if n := strings.Count(strings.Join(h.requests(), " "), proto.MethodMissing); n != 2 {
		t.Errorf("it was asked %d times what is missing", n)
	}
}

func TestALongLinkGetsMoreChannels(t *testing.T) {
	source := newMemoryStore()
	root := source.add(t, "large", 300_000_000)
	far, near := newMemoryHost(), newMemoryHost()
	far.delay = 600 * time.Millisecond
	c := connectorTo(t, source, far, near)
	pushTo(t, source, c, root, far, near)
	if len(far.channels) < 2 {
		t.Errorf("the long link has %d channels", len(far.channels))
	}
	if len(near.channels) != 1 {
		t.Errorf("the short link has %d channels", len(near.channels))
	}
}

func TestNothingMissingIsOneRequest(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 10, 1000)
	h := newMemoryHost()
	c := connectorTo(t, source, h)
	pushTo(t, source, c, root, h)
	h.info.Current = root.String()
	before := len(h.requests())
	pushTo(t, source, c, root, h)
	if asked := h.requests()[before:]; !slices.Equal(asked, []string{proto.MethodMissing}) {
		t.Errorf("asked for %q", asked)
	}
	if !slices.Equal(h.known, []string{root.String()}) {
		t.Errorf("it was said to have %q", h.known)
	}
}

func TestAHostThatDoesNotHaveWhatItSays(t *testing.T) {
	source := newMemoryStore()
	old := source.system(t, 5, 1000)
	root := source.add(t, "top", 1000, old)
	h := newMemoryHost()
	h.info.Current = old.String()
	c := connectorTo(t, source, h)
	pushTo(t, source, c, root, h)
	if n := strings.Count(strings.Join(h.requests(), " "), proto.MethodMissing); n != 2 {
		t.Errorf("it was asked %d times what is missing", n)
	}
}

func TestANewVersionIsSentAsADelta(t *testing.T) {
	source := newMemoryStore()
	h := newMemoryHost()
	c := connectorTo(t, source, h)
	var old, root [3]storepath.Path
	for i := range old {
		size := 1_000_000 * (1 + 8*(i/2)) // the last one is large
		refs := append([]storepath.Path(nil), old[:i]...)
		old[i] = source.add(t, fmt.Sprintf("part%c-1.0", 'a'+i), size, refs...)
		root[i] = source.add(t, fmt.Sprintf("part%c-1.1", 'a'+i), size, root[:i]...)
		data := slices.Clone(source.nars[old[i]])
		for k, ref := range root[:i] {
			copy(data[k*100:], ref.String())
		}
		copy(data[5000:], "changed")
		source.put(root[i], data, root[:i]...)
	}
	pushTo(t, source, c, old[2], h)
	h.info.Current = old[2].String()
	result := pushTo(t, source, c, root[2], h)[0]
	if result.NarBytes < 10_000_000 || result.WireBytes > 20_000 {
		t.Errorf("%+v", result)
	}
}

func TestAPathThatArrivesDamagedIsSentWhole(t *testing.T) {
	source := newMemoryStore()
	h := newMemoryHost()
	r := &recorder{}
	c := connectorTo(t, source, h)
	c.Reporter = r
	old := source.add(t, "part-1.0", 3_000_000)
	pushTo(t, source, c, old, h)
	h.info.Current = old.String()
	root := source.add(t, "part-1.1", 3_000_000)
	data := slices.Clone(source.nars[old])
	data[100]++
	source.put(root, data)
	t.Run("once", func(t *testing.T) {
		h.refuse["part-1.1"] = proto.Errorf(proto.CodeCorrupt, "it is another")
		result := pushTo(t, source, c, root, h)[0]
		if result.WireBytes < 1_000_000 || r.count("arrived damaged") != 1 {
			t.Errorf("%+v", result)
		}
	})
	t.Run("twice", func(t *testing.T) {
		delete(h.store.infos, root)
		s := h.session(t, c)
		h.refuse["part-1.1"] = proto.Errorf(proto.CodeCorrupt, "it is another")
		// With the warning that it is sent again, the next one is prepared.
		c.Reporter = reporterFunc(func(e plan.Event) {
			if e.Kind == plan.EventWarning {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.refuse["part-1.1"] = proto.Errorf(proto.CodeCorrupt, "still")
			}
		})
		_, err := s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}})
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Path != root || corrupt.Host != "web" {
			t.Errorf("%v", err)
		}
	})
	t.Run("from our own store", func(t *testing.T) {
		delete(h.store.infos, root)
		delete(h.refuse, "part-1.1")
		c := connectorTo(t, source, h)
		source.nars[root][7]++
		_, err := h.session(t, c).Push(t.Context(), PushRequest{Roots: []storepath.Path{root}})
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Path != root || corrupt.Host != "" {
			t.Errorf("%v", err)
		}
	})
}

func TestWhatAHostReportsIsChecked(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 3, 1000)
	for rule, say := range map[string]string{
		"no JSON":                    "next\n",
		"no beginning":               `{"received":1}` + "\n",
		"a beginning that was not":   `{"next":5}` + "\n",
		"more than was sent":         `{"next":0}` + "\n" + `{"received":900}` + "\n",
		"a path that was not sent":   `{"next":0}` + "\n" + `{"path":"/nix/store/\u001b"}` + "\n",
		"a line that does not end":   strings.Repeat("x", 128<<10),
		"the same number of units":   `{"next":0}` + "\n" + `{"received":1}` + "\n" + `{"received":1}` + "\n",
		"fewer units than before":    `{"next":0}` + "\n" + `{"received":4294967295}` + "\n",
		"a number that is too large": `{"next":99999999999}` + "\n",
	} {
		t.Run(rule, func(t *testing.T) {
			h := newMemoryHost()
			h.say = say
			_, err := h.session(t, connectorTo(t, source, h)).Push(t.Context(), PushRequest{Roots: []storepath.Path{root}})
			if err == nil || !strings.Contains(err.Error(), `"web"`) || strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("got %v", err)
			}
		})
	}
}
