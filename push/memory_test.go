package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/pack"
	"fleet/closure/storepath"
	"fleet/push/proto"
	"fleet/push/transport"
)

// memoryStore is a store in memory, with what it knows of its paths.
type memoryStore struct {
	memorySource
	infos  map[storepath.Path]closure.PathInfo
	random *rand.Rand
}

func newMemoryStore() *memoryStore {
	return &memoryStore{
		memorySource: memorySource{nars: map[storepath.Path][]byte{}}, infos: map[storepath.Path]closure.PathInfo{}, random: rand.New(rand.NewPCG(1, 2)),
	}
}

func (s *memoryStore) put(path storepath.Path, data []byte, refs ...storepath.Path) closure.PathInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	refs = slices.Clone(refs)
	storepath.Sort(refs)
	info := closure.PathInfo{Path: path, NarHash: sha256.Sum256(data), NarSize: uint64(len(data)), References: refs}
	s.nars[path], s.infos[path] = data, info
	return info
}

// add makes a path of random contents, half of which can be compressed away, that names its references.
func (s *memoryStore) add(t *testing.T, name string, size int, refs ...storepath.Path) storepath.Path {
	t.Helper()
	var hash [20]byte
	for i := range hash {
		hash[i] = byte(s.random.Uint32())
	}
	path, err := storepath.ParseBase(storepath.EncodeBase32(hash[:]) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, size/2)
	for i := range noise {
		noise[i] = byte(s.random.Uint32())
	}
	data := []byte(hex.EncodeToString(noise))
	for i, ref := range refs {
		copy(data[i*100:], ref.String())
	}
	s.put(path, data, refs...)
	return path
}

// system adds n paths that refer to each other, and returns the last.
func (s *memoryStore) system(t *testing.T, n, size int) storepath.Path {
	t.Helper()
	var last storepath.Path
	for i := range n {
		if i == 0 {
			last = s.add(t, "part-0", size)
		} else {
			last = s.add(t, fmt.Sprint("part-", i), size, last)
		}
	}
	return last
}

func (s *memoryStore) Closure(_ context.Context, roots ...storepath.Path) (*closure.Graph, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var infos []closure.PathInfo
	seen := map[storepath.Path]bool{}
	for queue := slices.Clone(roots); len(queue) > 0; queue = queue[1:] {
		if seen[queue[0]] {
			continue
		}
		seen[queue[0]] = true
		info, ok := s.infos[queue[0]]
		if !ok {
			return nil, &daemon.InvalidPathError{Path: queue[0]}
		}
		infos = append(infos, info)
		queue = append(queue, info.References...)
	}
	return closure.NewGraph(roots, infos)
}

func (s *memoryStore) NAR(_ context.Context, path storepath.Path, w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := w.Write(s.nars[path])
	return err
}

// has says whether the store has all of a closure, as the other one does.
func (s *memoryStore) has(t *testing.T, other *memoryStore, root storepath.Path) bool {
	t.Helper()
	graph, err := other.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range graph.Paths() {
		if want, _ := graph.Info(path); s.infos[path].NarHash != want.NarHash {
			return false
		}
	}
	return true
}

// memoryHost is a host with a store in memory. Its agent takes units as the real one does, but over channels that are pipes.
type memoryHost struct {
	store *memoryStore
	info  proto.HostInfo
	// delay is how long each answer takes.
	delay time.Duration
	// gate, where it is set, is received from before each unit is read.
	gate chan struct{}
	// cutAt cuts the connection once so many bytes of units have come; 0 never. Then it is 0.
	cutAt atomic.Int64
	// refuse is what is said of the first path of that name, once.
	refuse map[string]*proto.Error
	// say, where it is set, is said in place of the first event of a transfer.
	say string
	// other answers what nothing else here does.
	other proto.HandlerFunc
	// forget lets the agent forget a transfer whose connection was lost.
	forget bool
	// answer, where it is set, answers in the host's place; nil leaves the request to it.
	answer func(req *proto.Request) (any, error)

	bytes atomic.Int64
	mu    sync.Mutex
	cond  *sync.Cond
	// asked are the methods of all requests, numbers the units that came, channels those of imports.
	asked    []string
	numbers  []uint32
	channels map[int]bool
	known    []string
	transfer *memoryTransfer
	conns    []net.Conn
}

// memoryTransfer is what a memoryHost knows of a transfer.
type memoryTransfer struct {
	host     *memoryHost
	id       string
	attempt  int
	next     uint32
	unpacker *pack.Unpacker
	waiting  map[uint32][]byte
	end      uint32
	ended    bool
	acks     []string
	err      error
	// working is held by whom unpacks.
	working sync.Mutex
}

// received is how many units have come in order.
func (tr *memoryTransfer) received() uint32 {
	n := tr.next
	for tr.waiting[n] != nil {
		n++
	}
	return n
}

func newMemoryHost() *memoryHost {
	h := &memoryHost{store: newMemoryStore(), info: proto.HostInfo{Trusted: true}, channels: map[int]bool{}, refuse: map[string]*proto.Error{}}
	h.cond = sync.NewCond(&h.mu)
	return h
}

// Dial implements [transport.Dialer].
func (h *memoryHost) Dial(context.Context, transport.Target) (transport.Conn, error) {
	return &memoryConn{host: h}, nil
}

type memoryConn struct {
	transport.Conn
	host *memoryHost
}

func (c *memoryConn) Start(context.Context, string, transport.ChannelOptions) (transport.Channel, error) {
	near, far := net.Pipe()
	c.host.mu.Lock()
	c.host.conns = append(c.host.conns, far)
	c.host.mu.Unlock()
	go func() { _ = proto.Serve(context.Background(), far, memoryToken, proto.HandlerFunc(c.host.handle)) }()
	return &memoryChannel{Conn: near}, nil
}

func (c *memoryConn) User() string { return "root" }
func (c *memoryConn) Close() error { return nil }

type memoryChannel struct{ net.Conn }

func (c *memoryChannel) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.lost(err)
}

func (c *memoryChannel) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.lost(err)
}

func (c *memoryChannel) lost(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &transport.LostError{Host: "web", Err: err}
}

func (c *memoryChannel) CloseWrite() error { return nil }
func (c *memoryChannel) Stderr() io.Reader { return strings.NewReader("") }
func (c *memoryChannel) Wait() error       { return nil }

const memoryToken = "0123456789abcdef"

// cut breaks all connections.
func (h *memoryHost) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, conn := range h.conns {
		conn.Close()
	}
	h.conns = nil
	if h.forget {
		h.transfer = nil
	}
	h.cond.Broadcast()
}

// session is a session with the host, which c opens.
func (h *memoryHost) session(t *testing.T, c *Connector) *Session {
	t.Helper()
	// Each host has a dialer of its own.
	s := &Session{c: c, making: make(chan struct{}, 1), info: h.info}
	s.spec.Target.Host = "web"
	s.spec.Transport = fmt.Sprintf("memory-%p", h)
	l, err := s.open(t.Context(), &agentRef{exe: "agent", token: memoryToken})
	if err != nil {
		t.Fatal(err)
	}
	s.current = l
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// connectorTo makes a connector that reaches hosts.
func connectorTo(t *testing.T, source closure.Source, hosts ...*memoryHost) *Connector {
	c := &Connector{Source: source, Dialers: map[string]transport.Dialer{}, Retry: Retry{First: time.Millisecond}}
	for _, h := range hosts {
		c.Dialers[fmt.Sprintf("memory-%p", h)] = h
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (h *memoryHost) handle(ctx context.Context, req *proto.Request) (any, error) {
	h.mu.Lock()
	h.asked = append(h.asked, req.Method)
	h.mu.Unlock()
	if h.delay > 0 {
		time.Sleep(h.delay)
	}
	if h.answer != nil {
		if result, err := h.answer(req); result != nil || err != nil {
			return result, err
		}
	}
	switch req.Method {
	case proto.MethodMissing:
		var params proto.MissingRequest
		if err := req.Decode(&params); err != nil {
			return nil, err
		}
		return h.missing(params)
	case proto.MethodImport:
		var params proto.ImportRequest
		if err := req.Decode(&params); err != nil {
			return nil, err
		}
		return h.receive(ctx, params, req.Stream)
	case proto.MethodRoot, proto.MethodEnd:
		return nil, nil
	}
	if h.other != nil {
		return h.other(ctx, req)
	}
	return nil, proto.Errorf(proto.CodeUsage, "unknown method %q", req.Method)
}

func (h *memoryHost) missing(params proto.MissingRequest) (result proto.MissingResult, err error) {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	h.known = params.Known
	for _, text := range params.Known {
		path, err := storepath.Parse(text)
		if err != nil {
			return result, err
		}
		if _, ok := h.store.infos[path]; !ok {
			return proto.MissingResult{Unknown: true}, nil
		}
	}
	for i, base := range params.Paths {
		path, err := storepath.ParseBase(base)
		if err != nil {
			return result, err
		}
		if _, ok := h.store.infos[path]; !ok {
			result.Missing = append(result.Missing, i)
		}
	}
	for i, line := range params.Bases {
		base, _, _ := strings.Cut(line, " ")
		path, err := storepath.ParseBase(base)
		if err != nil {
			return result, err
		}
		if _, ok := h.store.infos[path]; !ok {
			result.Refused = append(result.Refused, i)
		}
	}
	result.Rooted = len(result.Missing) == 0 && len(params.Roots) > 0
	return result, nil
}

// Path implements [pack.Sink]. The host may have forgotten the transfer by then.
func (t *memoryTransfer) Path(_ context.Context, info storepath.Info, _ storepath.Path, nar io.Reader) error {
	h := t.host
	data, err := io.ReadAll(nar)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if refusal := h.refuse[info.Path.Name()]; refusal != nil {
		delete(h.refuse, info.Path.Name())
		refusal.Data, _ = json.Marshal(proto.PathData{Path: info.Path.String()})
		return refusal
	}
	if sha256.Sum256(data) != info.NarHash {
		return errors.New("the NAR has another hash")
	}
	h.store.put(info.Path, data, info.References...)
	t.acks = append(t.acks, info.Path.String())
	h.cond.Broadcast()
	return nil
}

// spool keeps what later paths are made of.
func (h *memoryHost) spool() (pack.Spool, error) {
	file, err := os.CreateTemp("", "fleet-push-test-")
	if err != nil {
		return nil, err
	}
	return file, os.Remove(file.Name())
}

// Open implements [pack.Views].
func (h *memoryHost) Open(path storepath.Path) (pack.View, error) {
	return h.store.View(context.Background(), path)
}

func (h *memoryHost) receive(ctx context.Context, params proto.ImportRequest, stream *proto.Stream) (any, error) {
	defer context.AfterFunc(ctx, func() { h.mu.Lock(); defer h.mu.Unlock(); h.cond.Broadcast() })()
	h.mu.Lock()
	h.channels[params.Channel] = true
	if params.Channel == 0 && params.Attempt == 1 {
		// Its context outlives the connection.
		h.transfer = &memoryTransfer{host: h, id: params.Transfer, waiting: map[uint32][]byte{}}
		h.transfer.unpacker = pack.NewUnpacker(context.Background(), h, h.transfer, h.spool)
	}
	tr := h.transfer
	if tr == nil || tr.id != params.Transfer {
		h.mu.Unlock()
		return nil, proto.Errorf(proto.CodeNotFound, "there is no such transfer")
	}
	if params.Channel == 0 {
		tr.attempt = params.Attempt
	}
	next := tr.received()
	if params.Channel == 0 {
		maps.DeleteFunc(tr.waiting, func(n uint32, _ []byte) bool { return n >= next })
	}
	h.mu.Unlock()
	if params.Channel > 0 {
		return nil, h.read(ctx, tr, params, stream)
	}
	go func() { _ = h.read(ctx, tr, params, stream) }()
	if h.say != "" {
		_, err := io.WriteString(stream, h.say)
		h.say = ""
		if err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.report(ctx, tr, params, next, json.NewEncoder(stream))
}

// read takes units from a channel.
func (h *memoryHost) read(ctx context.Context, tr *memoryTransfer, params proto.ImportRequest, stream *proto.Stream) error {
	units := proto.NewUnitReader(stream, pack.MaxUnit)
	for {
		head, err := units.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if h.gate != nil {
			select {
			case <-h.gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		unit := make([]byte, head.Length)
		if err := units.Fill(unit); err != nil {
			return err
		}
		if at := h.cutAt.Load(); h.bytes.Add(int64(head.Length)) >= at && at > 0 && h.cutAt.CompareAndSwap(at, 0) {
			h.cut()
			return io.ErrUnexpectedEOF
		}
		h.mu.Lock()
		for tr.attempt == params.Attempt && head.Length > 0 && head.Number >= tr.next+8 && ctx.Err() == nil {
			h.cond.Wait()
		}
		if tr.attempt != params.Attempt || ctx.Err() != nil {
			h.mu.Unlock()
			return context.Canceled
		}
		if head.Length == 0 {
			tr.end, tr.ended = head.Number, true
		} else {
			h.numbers = append(h.numbers, head.Number)
			tr.waiting[head.Number] = unit
		}
		h.cond.Broadcast()
		h.mu.Unlock()
	}
}

// report unpacks units in order, and says on channel 0 what has become of them.
func (h *memoryHost) report(ctx context.Context, tr *memoryTransfer, params proto.ImportRequest, next uint32, out *json.Encoder) (any, error) {
	if err := out.Encode(proto.ImportEvent{Next: &next}); err != nil {
		return nil, err
	}
	for said := params.Acked; ; {
		acks, received, done, err := h.unpack(ctx, tr, params.Attempt, &said)
		if err != nil {
			return nil, err
		}
		for _, path := range acks {
			if err := out.Encode(proto.ImportEvent{Path: path}); err != nil {
				return nil, err
			}
		}
		if done {
			return proto.ImportResult{}, nil
		}
		if received > next {
			next = received
			if err := out.Encode(proto.ImportEvent{Received: received}); err != nil {
				return nil, err
			}
		}
	}
}

// unpack unpacks the next unit, or the end.
func (h *memoryHost) unpack(ctx context.Context, tr *memoryTransfer, attempt int, said *int) (acks []string, received uint32, done bool, err error) {
	h.mu.Lock()
	for tr.attempt == attempt && tr.waiting[tr.next] == nil && (!tr.ended || tr.next < tr.end) && ctx.Err() == nil {
		h.cond.Wait()
	}
	h.mu.Unlock()
	tr.working.Lock()
	defer tr.working.Unlock()
	h.mu.Lock()
	unit, over := tr.waiting[tr.next], tr.ended && tr.next == tr.end
	late := tr.attempt != attempt || ctx.Err() != nil
	h.mu.Unlock()
	switch {
	case late:
		return nil, 0, false, context.Canceled
	case tr.err != nil:
	case over:
		tr.err = tr.unpacker.End()
	default:
		tr.err = tr.unpacker.Unit(unit)
	}
	if failed, ok := errors.AsType[*pack.PathError](tr.err); ok && proto.CodeOf(tr.err) == "" {
		e := proto.Errorf(proto.CodeCorrupt, "%v", failed)
		e.Data, _ = json.Marshal(proto.PathData{Path: failed.Path.String()})
		tr.err = e
	}
	if tr.err != nil {
		return nil, 0, false, tr.err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !over {
		delete(tr.waiting, tr.next)
		tr.next++
	}
	h.cond.Broadcast()
	acks, *said = slices.Clone(tr.acks[*said:]), len(tr.acks)
	return acks, tr.received(), over, nil
}

// requests are the methods of all requests so far.
func (h *memoryHost) requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked)
}
