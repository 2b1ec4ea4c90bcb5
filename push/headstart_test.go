package push

import (
	"errors"
	"testing"
	"time"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

// whileAsked calls f while the host is asked for what it lacks, before it answers.
func (h *memoryHost) whileAsked(f func() error) {
	h.answer = func(req *proto.Request) (any, error) {
		if req.Method != proto.MethodMissing {
			return nil, nil
		}
		return nil, f()
	}
}

func (w *workshop) hasMade() (nar float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made
}

func TestTheFirstUnitsAreMadeWhileTheHostAnswers(t *testing.T) {
	source := newMemoryStore()
	root := source.add(t, "top", 20_000, source.system(t, 40, 500_000), source.add(t, "large", 20_000_000))
	graph, err := source.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	h := newMemoryHost()
	c := connectorTo(t, source, h)
	h.whileAsked(func() error {
		for wait := time.Now(); c.units().hasMade() == 0; time.Sleep(time.Millisecond) {
			if time.Since(wait) > 10*time.Second {
				return errors.New("nothing was made")
			}
		}
		return nil
	})
	pushTo(t, source, c, root, h)
	shop := c.units()
	if made, all := shop.hasMade(), float64(graph.Sizes().NAR); made != all {
		t.Errorf("%.0f bytes were packed of %.0f: what was made ahead was not used", made, all)
	}
	shop.group.Wait()
	if shop.open != 0 || shop.used != 0 || source.open != 0 {
		t.Errorf("at the end %d lanes, %d bytes and %d views are open", shop.open, shop.used, source.open)
	}
}

// TestWhatIsNotNeededAfterAllIsGivenBack pushes to a host that has everything, and did not say so.
func TestWhatIsNotNeededAfterAllIsGivenBack(t *testing.T) {
	source := newMemoryStore()
	root := source.add(t, "top", 20_000, source.add(t, "large", 60_000_000))
	h := newMemoryHost()
	c := connectorTo(t, source, h)
	pushTo(t, source, c, root, h)
	before := c.units().hasMade()
	c = connectorTo(t, source, h)
	pushTo(t, source, c, root, h)
	shop := c.units()
	shop.group.Wait()
	if shop.used != 0 || shop.foreseen != 0 || source.open != 0 || shop.hasMade() >= before {
		t.Errorf("%d bytes and %d views are in use, and %.0f bytes were packed for nothing", shop.used, source.open, shop.hasMade())
	}
}

// TestRoomForHeadStartsIsSharedByAllHosts takes it as many hosts do that are to have something else each, and do not answer yet.
func TestRoomForHeadStartsIsSharedByAllHosts(t *testing.T) {
	const unit = 6 << 20
	var shop workshop
	for shop.foresee(unit) {
	}
	if shop.foreseen > headStartNAR || shop.foreseen+unit <= headStartNAR {
		t.Errorf("there was room for %d bytes", shop.foreseen)
	}
	if shop.foresee(-unit); !shop.foresee(unit) {
		t.Error("there is no room where some was given back")
	}
}

func TestNothingIsMadeBeforeItIsKnownWhatOthersServe(t *testing.T) {
	source := newMemoryStore()
	root := source.add(t, "large", 20_000_000)
	h := newMemoryHost()
	c := connectorTo(t, source, h)
	s := h.session(t, c)
	shop := c.units()
	h.whileAsked(func() error {
		shop.group.Wait()
		if shop.hasMade() > 0 {
			return errors.New("something was made")
		}
		return nil
	})
	_, err := s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}, Substitute: true})
	if proto.CodeOf(err) == proto.CodeInternal {
		t.Error(err)
	}
}
