package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"fleet/closure/pack"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

// load is what a sender has: paths, references first, and one unit for each of them, or for each segment.
type load struct {
	infos []storepath.Info
	nars  map[storepath.Path][]byte
	units [][]byte
}

// Open implements [pack.Views].
func (l *load) Open(path storepath.Path) (pack.View, error) {
	archive, ok := l.nars[path]
	if !ok {
		return nil, fmt.Errorf("there is no %q", path)
	}
	return memory{bytes.NewReader(archive)}, nil
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// add makes a path that refers to the last two before it.
func (l *load) add(t testing.TB, name, contents string) storepath.Info {
	t.Helper()
	text := storetest.Text{Name: name, Contents: contents}
	for _, before := range l.infos[max(0, len(l.infos)-2):] {
		text.References = append(text.References, before.Path)
	}
	info, archive := storetest.Prepare(t, text)
	if l.nars == nil {
		l.nars = make(map[storepath.Path][]byte)
	}
	l.infos = append(l.infos, info)
	l.nars[info.Path] = archive
	return info
}

// pack makes the units, with what was before each of them, and a base for each path where bases has one.
func (l *load) pack(t testing.TB, bases map[storepath.Path]storepath.Info) {
	t.Helper()
	packer := pack.NewPacker(l)
	defer packer.Close()
	l.units = nil
	var past pack.Past
	for _, info := range l.infos {
		item := pack.Item{Info: info, Base: bases[info.Path]}
		if !item.Base.Path.IsZero() {
			item.Refs = map[string]string{item.Base.Path.Hash(): info.Path.Hash()}
		}
		for segment := range max(1, int((info.NarSize+pack.SegmentSize-1)/pack.SegmentSize)) {
			spec := pack.Spec{Items: []pack.Item{item}, Segment: segment, Past: past}
			unit, err := packer.Pack(t.Context(), spec, pack.Better)
			if err != nil {
				t.Fatal(err)
			}
			past = pack.Past{Items: spec.Items, Segment: segment}
			l.units = append(l.units, unit.Bytes)
			if info.NarSize <= pack.SmallNAR {
				break
			}
		}
	}
}

// newLoad makes small paths and, in their midst, one of two segments; salt makes them others than those of other tests.
func newLoad(t testing.TB, salt string) *load {
	t.Helper()
	l := &load{}
	for i := range 12 {
		contents := fmt.Sprintf("%s %d %s", salt, i, strings.Repeat("x", i*1000))
		if i == 5 {
			contents = salt + noise()
		}
		l.add(t, fmt.Sprintf("path-%d", i), contents)
	}
	l.pack(t, nil)
	return l
}

// noise is text that hardly compresses, of more than one segment.
var noise = sync.OnceValue(func() string {
	dice := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, 9<<20)
	for i := range text {
		text[i] = "0123456789abcdef"[dice.IntN(16)]
	}
	return string(text)
})

func (l *load) names() []string {
	var names []string
	for _, info := range l.infos {
		names = append(names, info.Path.String())
	}
	return names
}

// heard is what a client hears on channel 0.
type heard struct {
	mu       sync.Mutex
	next     *uint32
	received uint32
	paths    []string
	// changed gets a value for each event.
	changed chan proto.ImportEvent
	stream  *proto.Stream
	// over is closed when nothing more comes.
	over chan struct{}
}

// openTransfer opens channel 0 and listens.
func openTransfer(t testing.TB, client *proto.Client, req proto.ImportRequest) *heard {
	t.Helper()
	h := &heard{changed: make(chan proto.ImportEvent, 100000), over: make(chan struct{}), stream: openChannel(t, client, req)}
	go func() {
		defer close(h.over)
		for dec := json.NewDecoder(h.stream); ; {
			var event proto.ImportEvent
			if dec.Decode(&event) != nil {
				return
			}
			h.note(event)
		}
	}()
	return h
}

func openChannel(t testing.TB, client *proto.Client, req proto.ImportRequest) *proto.Stream {
	t.Helper()
	if req.Attempt == 0 {
		req.Attempt = 1
	}
	stream, err := client.Open(t.Context(), proto.MethodImport, req)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func (h *heard) note(event proto.ImportEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case event.Next != nil:
		h.next = event.Next
	case event.Path != "":
		h.paths = append(h.paths, event.Path)
	default:
		h.received = event.Received
	}
	h.changed <- event
}

// await waits for an event.
func (h *heard) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for {
		h.mu.Lock()
		found := ok()
		h.mu.Unlock()
		if found {
			return
		}
		select {
		case <-h.changed:
		case <-h.over:
			t.Fatalf("the channel ended before %s: %v", what, h.stream.Result(nil))
		}
	}
}

func (h *heard) awaitNext(t testing.TB) uint32 {
	t.Helper()
	h.await(t, "it said what it expects", func() bool { return h.next != nil })
	return *h.next
}

// end returns how the transfer ended.
func (h *heard) end() (proto.ImportResult, error) {
	<-h.over
	var result proto.ImportResult
	err := h.stream.Result(&result)
	return result, err
}

// send writes units from a number on, and the end, to one channel.
func send(w io.Writer, units [][]byte, from uint32) error {
	out := proto.NewUnitWriter(w)
	for i := from; i < uint32(len(units)); i++ {
		if err := out.Unit(i, units[i]); err != nil {
			return err
		}
	}
	return out.End(uint32(len(units)))
}

// transferName is a name that no other test of the process has.
func transferName(salt string) string {
	sum := sha256.Sum256([]byte(salt))
	return hex.EncodeToString(sum[:16])
}

// pushUnits sends a whole load over one channel.
func pushUnits(t testing.TB, client *proto.Client, salt string, l *load) (*heard, proto.ImportResult, error) {
	t.Helper()
	h := openTransfer(t, client, proto.ImportRequest{Transfer: transferName(salt)})
	go func() {
		if send(h.stream, l.units, 0) == nil {
			_ = h.stream.CloseWrite()
		}
	}()
	result, err := h.end()
	return h, result, err
}

// samples are the paths of a load as other tests have them.
func (l *load) samples() []sample {
	var samples []sample
	for _, info := range l.infos {
		samples = append(samples, sample{info: toWire(info), nar: l.nars[info.Path]})
	}
	return samples
}

// askMissing asks what of a load the host lacks, with bases for deltas.
func askMissing(t testing.TB, client *proto.Client, l *load, bases ...string) proto.MissingResult {
	t.Helper()
	req := proto.MissingRequest{Bases: bases}
	for _, info := range l.infos {
		req.Paths = append(req.Paths, info.Path.Base())
	}
	var result proto.MissingResult
	if err := client.Call(t.Context(), proto.MethodMissing, req, &result); err != nil {
		t.Fatal(err)
	}
	return result
}

// infoOf is a path of a sample as a store knows it.
func infoOf(t testing.TB, wire proto.PathInfo) storepath.Info {
	t.Helper()
	info := storepath.Info{NarSize: wire.NarSize}
	path, err := storepath.Parse(wire.Path)
	if err != nil {
		t.Fatal(err)
	}
	info.Path = path
	if info.References, err = parsePaths(wire.References); err != nil {
		t.Fatal(err)
	}
	if _, err := hex.Decode(info.NarHash[:], []byte(wire.NarHash)); err != nil {
		t.Fatal(err)
	}
	return info
}
