package push

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

// pushToLiar pushes a closure of three paths, one of which is large, to a host that lies, and returns how that ended.
func pushToLiar(t *testing.T, source *memoryStore, root storepath.Path, h *memoryHost) error {
	t.Helper()
	c := connectorTo(t, source, h)
	ended := make(chan error, 1)
	go func() {
		_, err := h.session(t, c).Push(t.Context(), PushRequest{Roots: []storepath.Path{root}, RootName: "test"})
		ended <- err
	}()
	select {
	case err := <-ended:
		if shop := c.units(); shop.open != 0 || shop.used != 0 {
			t.Errorf("%d lanes and %d bytes of units are left", shop.open, shop.used)
		}
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the push does not end")
		return nil
	}
}

func liarSource(t *testing.T) (*memoryStore, storepath.Path) {
	source := newMemoryStore()
	return source, source.add(t, "top", 1000, source.system(t, 2, 1000), source.add(t, "large", 20_000_000))
}

func TestWhatAHostMissesIsChecked(t *testing.T) {
	source, root := liarSource(t)
	for rule, answer := range map[string]any{
		"a path that nobody asked for":  proto.MissingResult{Missing: []int{0, 4}},
		"a path before the first":       proto.MissingResult{Missing: []int{-1}},
		"a path twice":                  proto.MissingResult{Missing: []int{1, 1}},
		"paths backwards":               proto.MissingResult{Missing: []int{2, 1}},
		"a base that nobody offered":    proto.MissingResult{Missing: []int{0}, Refused: []int{0}},
		"it does not know what it said": proto.MissingResult{Missing: []int{99}, Unknown: true},
		"a number that is too large":    json.RawMessage(`{"missing":[1e300]}`),
		"no list":                       json.RawMessage(`{"missing":"all"}`),
		"no object":                     json.RawMessage(`[[[[]]]]`),
		"a control sequence":            json.RawMessage(`"\u001b]0;x\u0007"`),
	} {
		t.Run(rule, func(t *testing.T) {
			h := newMemoryHost()
			h.answer = func(req *proto.Request) (any, error) {
				if req.Method == proto.MethodMissing {
					return answer, nil
				}
				return nil, nil
			}
			if err := pushToLiar(t, source, root, h); err == nil || !strings.Contains(err.Error(), "web") || strings.ContainsAny(err.Error(), "\x1b\a") {
				t.Errorf("got %v", err)
			}
			if h.bytes.Load() > 0 {
				t.Errorf("%d bytes were sent", h.bytes.Load())
			}
		})
	}
}

func TestAHostThatAcknowledgesWhatItDoesNotHave(t *testing.T) {
	source, root := liarSource(t)
	path := func(p storepath.Path) string { return fmt.Sprintf(`{"path":%q}`, p) + "\n" }
	const begins = `{"next":0}` + "\n"
	stranger := parsedPath(t, strings.Repeat("1", 32)+"-stranger")
	for rule, say := range map[string]string{
		"a path twice":                    begins + path(root) + path(root),
		"a path of another closure":       begins + path(stranger),
		"a path within a path":            begins + `{"path":"` + root.String() + `/bin"}` + "\n",
		"a unit that does not exist":      begins + `{"received":1000}` + "\n",
		"all that there is, and one more": begins + `{"received":5}` + "\n",
		"the beginning again":             begins + `{"next":0,"path":"/"}` + "\n",
		"a negative number":               begins + `{"received":-1}` + "\n",
		"an array":                        begins + "[]\n",
		"nothing but zeros":               begins + strings.Repeat("\x00", 1000) + "\n",
	} {
		t.Run(rule, func(t *testing.T) {
			h := newMemoryHost()
			h.say = say
			if err := pushToLiar(t, source, root, h); err == nil || !strings.Contains(err.Error(), "web") || strings.ContainsRune(err.Error(), 0) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func parsedPath(t *testing.T, base string) storepath.Path {
	t.Helper()
	path, err := storepath.ParseBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A host that says it is done before it can be is not believed.
func TestATransferThatEndsEarly(t *testing.T) {
	source, root := liarSource(t)
	for rule, say := range map[string]string{
		"before it begins": "", "after its beginning": `{"next":0}` + "\n", "after a path": `{"next":0}` + "\n" + fmt.Sprintf(`{"path":%q}`, root) + "\n",
	} {
		t.Run(rule, func(t *testing.T) {
			h := newMemoryHost()
			h.answer = func(req *proto.Request) (any, error) {
				if req.Method != proto.MethodImport {
					return nil, nil
				}
				if _, err := req.Stream.Write([]byte(say)); err != nil {
					return nil, err
				}
				return proto.ImportResult{Paths: 4, Bytes: 1 << 60}, nil
			}
			if err := pushToLiar(t, source, root, h); err == nil || !strings.Contains(err.Error(), "web") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A host that finds fault with everything does not have it sent for ever.
func TestAHostThatIsNeverContentIsGivenUp(t *testing.T) {
	source, root := liarSource(t)
	graph, err := source.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	ours := graph.Topological()
	for rule, path := range map[string]func(n int) string{
		"the same path":          func(int) string { return root.String() },
		"one path after another": func(n int) string { return ours[n%len(ours)].String() },
		"no path":                func(int) string { return "" },
		"paths of others":        func(n int) string { return fmt.Sprintf("/nix/store/%032d-x", n) },
		"no store paths":         func(n int) string { return strings.Repeat("../", n) },
	} {
		for _, code := range []proto.ErrorCode{proto.CodeCorrupt, proto.CodeNotFound, proto.CodeCancelled, "\x1b[2J"} {
			t.Run(fmt.Sprintf("%s/%q", rule, code), func(t *testing.T) {
				h := newMemoryHost()
				refusals := 0
				h.answer = func(req *proto.Request) (any, error) {
					if req.Method != proto.MethodImport {
						return nil, nil
					}
					refusals++
					e := proto.Errorf(code, "no\x1b")
					e.Data, _ = json.Marshal(proto.PathData{Path: path(refusals)})
					return nil, e
				}
				if err := pushToLiar(t, source, root, h); err == nil || !strings.Contains(err.Error(), "web") || strings.ContainsRune(err.Error(), '\x1b') {
					t.Errorf("got %v", err)
				}
				if refusals > maxCorrupt+2 {
					t.Errorf("it was sent %d times", refusals)
				}
			})
		}
	}
}
