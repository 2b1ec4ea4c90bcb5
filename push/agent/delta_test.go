package agent

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"fleet/closure/delta"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

// againstBase is a path that was rebuilt: the same contents, but for the reference that was renewed.
type againstBase struct {
	lib, oldLib, target, base sample
	delta                     []byte
}

func rebuilt(t *testing.T, size int) againstBase {
	t.Helper()
	r := againstBase{oldLib: newSample(t, "a", "lib"), lib: newSample(t, "b", "lib")}
	contents := func(lib sample) string {
		text := strings.Repeat("program ", size/8)
		return text + lib.info.Path + text
	}
	r.base = newSample(t, "c", contents(r.oldLib), r.oldLib.info.Path)
	r.target = newSample(t, "d", contents(r.lib), r.lib.info.Path)
	refs, err := delta.NewRefs(map[string]string{strings.Repeat("a", 32): strings.Repeat("b", 32), strings.Repeat("c", 32): strings.Repeat("d", 32)})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	in := delta.Input{Base: bytes.NewReader(r.base.nar), Refs: refs, Target: bytes.NewReader(r.target.nar), Size: int64(len(r.target.nar))}
	if _, err := delta.Encode(&out, in, delta.Options{}); err != nil {
		t.Fatal(err)
	}
	r.delta = out.Bytes()
	if len(r.delta) > 300 {
		t.Fatalf("a delta of %d bytes", len(r.delta))
	}
	return r
}

func (r againstBase) entry() proto.ImportEntry {
	return proto.ImportEntry{PathInfo: r.target.info, Base: r.base.info.Path, Was: []string{strings.Repeat("a", 32)}, Delta: uint64(len(r.delta))}
}

// agree asks for the target and offers its base, and returns the places of refused bases.
func (r againstBase) agree(t *testing.T, client *proto.Client, sum string) []int {
	t.Helper()
	name := func(s sample) string { return strings.TrimPrefix(s.info.Path, "/nix/store/") }
	request := proto.MissingRequest{Paths: proto.Lines{name(r.lib), name(r.target)}, Bases: proto.Lines{name(r.base) + " " + sum}}
	var result proto.MissingResult
	if err := client.Call(t.Context(), proto.MethodMissing, request, &result); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{0, 1}, result.Missing); diff != "" {
		t.Fatal(diff)
	}
	return result.Refused
}

// importDelta sends the new library and the target's delta.
func importDelta(t *testing.T, client *proto.Client, lib sample, entry proto.ImportEntry, body []byte) error {
	t.Helper()
	stream, err := client.Open(t.Context(), proto.MethodImport, proto.ImportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := proto.AppendImportEntry(nil, proto.ImportEntry{PathInfo: lib.info})
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, lib.nar...)
	if raw, err = proto.AppendImportEntry(raw, entry); err != nil {
		t.Fatal(err)
	}
	raw = proto.AppendImportEnd(append(raw, body...))
	z, err := zstd.NewWriter(stream)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = z.Write(raw) // the result says what became of it
		_ = z.Close()
		_ = stream.CloseWrite()
	}()
	for dec := json.NewDecoder(stream); ; {
		var ack proto.ImportAck
		if dec.Decode(&ack) != nil {
			break
		}
	}
	return stream.Result(nil)
}

func TestAPathIsMadeFromWhatTheHostHas(t *testing.T) {
	storetest.RequireNix(t)
	for name, size := range map[string]int{"small": 1000, "large": 6 << 20} {
		t.Run(name, func(t *testing.T) {
			host := testHost(t)
			store := chrootStore(t, host)
			client, _ := connect(t, host)
			r := rebuilt(t, size)
			if _, err := push(t, client, []sample{r.oldLib, r.base}, nil); err != nil {
				t.Fatal(err)
			}
			if refused := r.agree(t, client, r.base.info.NarHash[:proto.BaseSumLength]); len(refused) > 0 {
				t.Fatal("the base was refused")
			}
			if err := importDelta(t, client, r.lib, r.entry(), r.delta); err != nil {
				t.Fatal(err)
			}
			if got := read(t, store.Root+r.target.info.Path); !strings.Contains(got, r.lib.info.Path) || len(got) < 2*size {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
}

func TestABaseThatTheHostHasOtherwiseIsRefused(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	r := rebuilt(t, 1000)
	sum := r.base.info.NarHash[:proto.BaseSumLength]
	if refused := r.agree(t, client, sum); len(refused) != 1 {
		t.Error("a base that is not there was accepted")
	}
	if _, err := push(t, client, []sample{r.oldLib, r.base}, nil); err != nil {
		t.Fatal(err)
	}
	if refused := r.agree(t, client, strings.Repeat("0", proto.BaseSumLength)); len(refused) != 1 {
		t.Error("a base with other contents was accepted")
	}
	if refused := r.agree(t, client, sum); len(refused) != 0 {
		t.Error("the right base was refused")
	}
}

func TestADeltaThatIsWrongIsNamedAndNotRegistered(t *testing.T) {
	storetest.RequireNix(t)
	for rule, change := range map[string]func(r *againstBase, e *proto.ImportEntry){
		"a base that was not agreed on":      func(r *againstBase, e *proto.ImportEntry) { e.Base = r.oldLib.info.Path },
		"a base outside of the store":        func(_ *againstBase, e *proto.ImportEntry) { e.Base = "/etc" },
		"a base with a way out of the store": func(_ *againstBase, e *proto.ImportEntry) { e.Base = "/nix/store/../../etc" },
		"another reference map":              func(_ *againstBase, e *proto.ImportEntry) { e.Was = nil },
		"a reference that is no hash":        func(_ *againstBase, e *proto.ImportEntry) { e.Was = []string{"x"} },
		"a changed delta":                    func(r *againstBase, _ *proto.ImportEntry) { r.delta[len(r.delta)/2] ^= 1 },
		"a delta that is cut":                func(r *againstBase, e *proto.ImportEntry) { r.delta, e.Delta = r.delta[:20], 20 },
		"another target":                     func(r *againstBase, e *proto.ImportEntry) { e.NarHash = r.base.info.NarHash },
		"a target of another size":           func(_ *againstBase, e *proto.ImportEntry) { e.NarSize++ },
	} {
		for _, size := range []int{1000, 6 << 20} {
			t.Run(rule, func(t *testing.T) {
				host := testHost(t)
				chrootStore(t, host)
				client, _ := connect(t, host)
				r := rebuilt(t, size)
				if _, err := push(t, client, []sample{r.oldLib, r.base}, nil); err != nil {
					t.Fatal(err)
				}
				r.agree(t, client, r.base.info.NarHash[:proto.BaseSumLength])
				entry := r.entry()
				change(&r, &entry)
				err := importDelta(t, client, r.lib, entry, r.delta)
				if proto.CodeOf(err) != proto.CodeCorrupt || !strings.Contains(err.Error(), r.target.info.Path) {
					t.Errorf("%v", err)
				}
				if left := missing(t, client, []string{r.lib.info.Path, r.target.info.Path}); len(left) != 1 || left[0] != r.target.info.Path {
					t.Errorf("missing: %q", left)
				}
				if _, err := push(t, client, []sample{r.target}, nil); err != nil {
					t.Errorf("the whole path afterwards: %v", err)
				}
			})
		}
	}
}

func TestAPushOfNothingSetsItsRootsAtOnce(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	a := newSample(t, "a", "first")
	name := strings.TrimPrefix(a.info.Path, "/nix/store/")
	root := []proto.RootRequest{{Name: "pushed", Path: a.info.Path}}
	for _, tt := range []struct {
		rule    string
		request proto.MissingRequest
		want    proto.MissingResult
		before  bool
	}{
		{"something is missing", proto.MissingRequest{Paths: proto.Lines{name}, Roots: root}, proto.MissingResult{Missing: []int{0}}, false},
		{"the toplevel that it is known to have is missing", proto.MissingRequest{Known: []string{a.info.Path}, Roots: root}, proto.MissingResult{Missing: []int{}, Unknown: true}, false},
		{"nothing is missing", proto.MissingRequest{Paths: proto.Lines{name}, Roots: root}, proto.MissingResult{Missing: []int{}, Rooted: true}, true},
		{"it is in what is known", proto.MissingRequest{Known: []string{a.info.Path}, Roots: root}, proto.MissingResult{Missing: []int{}, Rooted: true}, true},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if tt.before {
				if _, err := push(t, client, []sample{a}, nil); err != nil {
					t.Fatal(err)
				}
			}
			var got proto.MissingResult
			if err := client.Call(t.Context(), proto.MethodMissing, tt.request, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
