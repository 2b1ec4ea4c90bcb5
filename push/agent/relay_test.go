package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

// offering is an offer as the operator holds it.
type offering struct {
	stream *proto.Stream
	ready  proto.OfferReady
}

func offerPaths(t *testing.T, client *proto.Client, req proto.OfferRequest) offering {
	t.Helper()
	stream, err := client.Open(t.Context(), proto.MethodOffer, req)
	if err != nil {
		t.Fatal(err)
	}
	o := offering{stream: stream}
	if err := json.NewDecoder(stream).Decode(&o.ready); err != nil {
		t.Fatalf("offer: %v (%v)", err, stream.Result(nil))
	}
	return o
}

// end ends the offer and returns what was served.
func (o offering) end(t *testing.T) (result proto.ImportResult, err error) {
	t.Helper()
	if err := o.stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	return result, o.stream.Result(&result)
}

// takeOf is a take as the operator holds it.
type takeOf struct {
	stream *proto.Stream
	lines  *bufio.Reader
	key    string
}

func beginTake(t *testing.T, client *proto.Client) takeOf {
	t.Helper()
	return beginTakeUntil(t.Context(), t, client)
}

// beginTakeUntil begins a take that ends with ctx.
func beginTakeUntil(ctx context.Context, t *testing.T, client *proto.Client) takeOf {
	t.Helper()
	stream, err := client.Open(ctx, proto.MethodTake, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stream)
	text, err := lines.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var ready proto.TakeReady
	if err := json.Unmarshal(text, &ready); err != nil {
		t.Fatal(err)
	}
	return takeOf{stream, lines, ready.Key}
}

// from says where to take samples from, and returns the paths that were registered.
func (k takeOf) from(t *testing.T, from proto.TakeFrom, samples []sample) (registered []string, result proto.ImportResult, err error) {
	t.Helper()
	infos := make([]proto.PathInfo, len(samples))
	for i, s := range samples {
		infos[i] = s.info
	}
	if err := proto.WriteTake(k.stream, from, infos); err != nil {
		t.Fatal(err)
	}
	if err := k.stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := k.lines.ReadBytes('\n')
		if err != nil {
			break // the result says how it ended
		}
		var event proto.ImportEvent
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatal(err)
		}
		registered = append(registered, event.Path)
	}
	err = k.stream.Result(&result)
	return registered, result, err
}

func baseNames(samples []sample) (names proto.Lines) {
	for _, s := range samples {
		names = append(names, strings.TrimPrefix(s.info.Path, storepath.StoreDir+"/"))
	}
	return names
}

// relayWith is a host that has samples.
func relayWith(t *testing.T, samples []sample) (*proto.Client, *session) {
	t.Helper()
	host := testHost(t)
	chrootStore(t, host)
	client, s := connect(t, host)
	if _, err := push(t, client, samples); err != nil {
		t.Fatal(err)
	}
	return client, s
}

func fromOffer(o offering) proto.TakeFrom {
	return proto.TakeFrom{Relay: "relay-1", Addresses: []string{"127.0.0.1"}, Port: o.ready.Port, Key: o.ready.Key}
}

func TestAHostTakesPathsFromAnother(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	relay, relaySession := relayWith(t, samples)
	host := testHost(t)
	store := chrootStore(t, host)
	target, _ := connect(t, host)
	take := beginTake(t, target)
	offer := offerPaths(t, relay, proto.OfferRequest{Peer: take.key, Paths: baseNames(samples)})
	// The first address leads nowhere.
	from := fromOffer(offer)
	from.Addresses = []string{"127.0.0.99", "127.0.0.1"}
	registered, result, err := take.from(t, from, samples)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(registered)
	if diff := cmp.Diff(paths(samples), registered); diff != "" || int(result.Paths) != len(samples) {
		t.Errorf("%+v, reported: %s", result, diff)
	}
	if left := missing(t, target, paths(samples)); len(left) != 0 {
		t.Errorf("still missing: %q", left)
	}
	if got := read(t, store.Root+samples[0].info.Path); got != "first" {
		t.Errorf("contents: %q", got)
	}
	served, err := offer.end(t)
	if err != nil || served != result {
		t.Errorf("served %+v, %v, taken %+v", served, err, result)
	}
	nothingListens(t, relaySession, offer)
}

// nothingListens checks that the end of the last offer is that of the listener.
func nothingListens(t *testing.T, s *session, o offering) {
	t.Helper()
	s.doorsMu.Lock()
	defer s.doorsMu.Unlock()
	if len(s.doors) != 0 {
		t.Errorf("%d listeners are left", len(s.doors))
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.ready.Port))
	if err == nil {
		conn.Close()
		t.Errorf("port %d is still open", o.ready.Port)
	}
}

func TestOffersShareAPortAndAreApart(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	relay, relaySession := relayWith(t, samples)
	hostA, hostB := testHost(t), testHost(t)
	chrootStore(t, hostA)
	chrootStore(t, hostB)
	a, _ := connect(t, hostA)
	b, _ := connect(t, hostB)
	takeA, takeB := beginTake(t, a), beginTake(t, b)
	offerA := offerPaths(t, relay, proto.OfferRequest{Peer: takeA.key, Paths: baseNames(samples[:1])})
	offerB := offerPaths(t, relay, proto.OfferRequest{Peer: takeB.key, Paths: baseNames(samples)})
	if offerA.ready.Port != offerB.ready.Port {
		t.Errorf("ports %d and %d", offerA.ready.Port, offerB.ready.Port)
	}
	// The first may have one path, and wants another one.
	if _, _, err := takeA.from(t, fromOffer(offerA), samples[2:]); err == nil {
		t.Error("a path came that was not offered to this host")
	}
	if _, err := offerA.end(t); proto.CodeOf(err) != proto.CodeForbidden {
		t.Errorf("the relay says %v", err)
	}
	if left := missing(t, a, paths(samples)); len(left) != len(samples) {
		t.Errorf("missing: %q", left)
	}
	if _, _, err := takeB.from(t, fromOffer(offerB), samples); err != nil {
		t.Error(err)
	}
	if _, err := offerB.end(t); err != nil {
		t.Error(err)
	}
	nothingListens(t, relaySession, offerB)
}

func TestAnOfferIsTakenByItsPeerAloneAndOnce(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	relay, _ := relayWith(t, samples)
	mine, other := newKey(t), newKey(t)
	offer := offerPaths(t, relay, proto.OfferRequest{Peer: mine.hash, Paths: baseNames(samples)})
	ask := func(key tunnelKey, relayKey string) (string, error) {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", offer.ready.Port), key.config(func(hash string) bool { return hash == relayKey }))
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if err := proto.WriteWanted(conn, baseNames(samples)); err != nil {
			return "", err
		}
		reader, err := proto.NewImportReader(conn)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		info, _, err := reader.Next()
		return info.Path, err
	}
	if _, err := ask(other, offer.ready.Key); err == nil {
		t.Error("a stranger's key was accepted")
	}
	if _, err := ask(mine, other.hash); err == nil || !strings.Contains(err.Error(), errOtherKey.Error()) {
		t.Errorf("another key of the relay was accepted: %v", err)
	}
	if path, err := ask(mine, offer.ready.Key); err != nil || path != samples[0].info.Path {
		t.Errorf("%q, %v", path, err)
	}
	if _, err := ask(mine, offer.ready.Key); err == nil {
		t.Error("the offer was taken twice")
	}
}

func newKey(t *testing.T) tunnelKey {
	t.Helper()
	key, err := newTunnelKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestAnOfferEndsWithTheConnectionOfWhoMadeIt(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	first, s := relayWith(t, samples)
	offer := offerPaths(t, connectTo(t, s), proto.OfferRequest{Peer: newKey(t).hash, Paths: baseNames(samples)})
	// A peer that says nothing does not keep it open.
	silent, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", offer.ready.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	lasting := offerPaths(t, first, proto.OfferRequest{Peer: newKey(t).hash, Paths: baseNames(samples)})
	offer.stream.Cancel()
	began := time.Now()
	lasting.stream.Cancel()
	waitUntil(t, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", offer.ready.Port))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if took := time.Since(began); took > handshakeTime/2 {
		t.Errorf("it took %s", took)
	}
}

func TestWhatCannotBeOfferedIsRefused(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	relay, _ := relayWith(t, samples[:1])
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	peer := newKey(t).hash
	for name, tt := range map[string]struct {
		req  proto.OfferRequest
		code proto.ErrorCode
	}{
		"a path that is not there": {proto.OfferRequest{Peer: peer, Paths: baseNames(samples)}, proto.CodeNotFound},
		"what is no path":          {proto.OfferRequest{Peer: peer, Paths: proto.Lines{"../etc"}}, proto.CodeUsage},
		"no peer":                  {proto.OfferRequest{Paths: baseNames(samples[:1])}, proto.CodeUsage},
		"no port":                  {proto.OfferRequest{Peer: peer, Port: 65536, Paths: baseNames(samples[:1])}, proto.CodeUsage},
		"a port that is taken":     {proto.OfferRequest{Peer: peer, Port: taken.Addr().(*net.TCPAddr).Port, Paths: baseNames(samples[:1])}, proto.CodeInternal},
	} {
		if err := relay.Call(t.Context(), proto.MethodOffer, tt.req, nil); proto.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// liar is a relay that has the right key and answers as it likes.
func liar(t *testing.T, peer string, answer func(w io.Writer)) proto.TakeFrom {
	t.Helper()
	key := newKey(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", key.config(func(hash string) bool { return hash == peer }))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := proto.ReadWanted(bufio.NewReader(conn), 100); err == nil {
			answer(conn)
		}
	}()
	return proto.TakeFrom{Relay: "relay-1", Addresses: []string{"127.0.0.1"}, Port: listener.Addr().(*net.TCPAddr).Port, Key: key.hash}
}

// pathsBytes are paths in the export format.
func pathsBytes(t *testing.T, samples ...sample) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := proto.NewImportWriter(&b, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		body, err := w.Begin(s.info)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := body.Write(s.nar); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestARelayThatLiesChangesNothing(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	wrong := samples[2]
	wrong.nar = bytes.Replace(wrong.nar, []byte("third"), []byte("THIRD"), 1)
	small := samples[0]
	small.nar = bytes.Replace(small.nar, []byte("first"), []byte("FIRST"), 1)
	noNar := samples[0]
	noNar.nar = bytes.Repeat([]byte{7}, len(noNar.nar))
	otherHash := newSample(t, "a", "another")
	stranger := newSample(t, "d", "uninvited")
	// Frames of zstd that hold nothing.
	nothing := append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 1, 0}, make([]byte, 1<<16)...)
	for name, tt := range map[string]struct {
		answer func(w io.Writer)
		says   string
		// arrived is how many paths were right and came before.
		arrived int
	}{
		"wrong bytes of a small path": {sends(pathsBytes(t, small)), samples[0].info.Path, 0},
		"wrong bytes of a large path": {sends(pathsBytes(t, samples[0], samples[1], wrong)), samples[2].info.Path, 2},
		"no NAR":                      {sends(pathsBytes(t, noNar)), samples[0].info.Path, 0},
		"another path of that name":   {sends(pathsBytes(t, otherHash)), samples[0].info.Path, 0},
		"a path nobody asked for":     {sends(pathsBytes(t, stranger)), stranger.info.Path, 0},
		"a path twice":                {sends(pathsBytes(t, samples[0], samples[0])), samples[0].info.Path, 1},
		"too few paths":               {sends(pathsBytes(t, samples[0])), "left out 2 paths", 1},
		"no answer":                   {func(io.Writer) {}, "relay-1", 0},
		"an answer that was cut":      {sends(pathsBytes(t, samples...)[:200]), "relay-1", 0},
		"no format":                   {sends(bytes.Repeat([]byte("HTTP/1.1 200 OK\r\n"), 1000)), "relay-1", 0},
		"an endless stream": {func(w io.Writer) {
			for {
				if _, err := w.Write(nothing); err != nil {
					return
				}
			}
		}, errTooMuch.Error(), 0},
		"paths in the wrong order": {sends(pathsBytes(t, samples[2], samples[1], samples[0])), samples[2].info.Path, 0},
	} {
		t.Run(name, func(t *testing.T) {
			host := testHost(t)
			store := chrootStore(t, host)
			target, _ := connect(t, host)
			take := beginTake(t, target)
			_, result, err := take.from(t, liar(t, take.key, tt.answer), samples)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("%+v, %v", result, err)
			}
			left := missing(t, target, paths(samples))
			if len(left) != len(samples)-tt.arrived {
				t.Errorf("missing: %q", left)
			}
			for _, s := range samples {
				if slices.Contains(left, s.info.Path) {
					continue
				}
				var have bytes.Buffer
				if err := nar.Dump(&have, store.Root+s.info.Path); err != nil || !bytes.Equal(have.Bytes(), s.nar) {
					t.Errorf("%s is registered and is another: %v", s.info.Path, err)
				}
			}
		})
	}
}

func sends(p []byte) func(io.Writer) {
	return func(w io.Writer) { _, _ = w.Write(p) }
}

func TestAPeerThatWantsMoreThanIsOfferedGetsNothing(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	relay, _ := relayWith(t, samples)
	host := testHost(t)
	chrootStore(t, host)
	target, _ := connect(t, host)
	take := beginTake(t, target)
	offer := offerPaths(t, relay, proto.OfferRequest{Peer: take.key, Paths: baseNames(samples[:1])})
	if _, result, err := take.from(t, fromOffer(offer), samples); err == nil || result.Paths > 0 {
		t.Errorf("%+v, %v", result, err)
	}
	if _, err := offer.end(t); err == nil || !strings.Contains(err.Error(), "3 lines, the limit is 1") {
		t.Errorf("the relay says %v", err)
	}
}

func TestARelayThatIsSlowForTooLongIsLeft(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	host := testHost(t)
	chrootStore(t, host)
	target, s := connect(t, host)
	key := newKey(t)
	relay := liar(t, key.hash, func(w io.Writer) {
		all := pathsBytes(t, samples...)
		_, _ = w.Write(all[:len(all)-100])
		_, _ = io.Copy(io.Discard, w.(net.Conn))
	})
	var told bytes.Buffer
	if err := proto.WriteTake(&told, relay, []proto.PathInfo{samples[0].info, samples[1].info, samples[2].info}); err != nil {
		t.Fatal(err)
	}
	take, err := readTaking(&told)
	if err != nil {
		t.Fatal(err)
	}
	if take.limit < takeSlack || take.limit > takeSlack+time.Minute {
		t.Errorf("a small take has %s", take.limit)
	}
	take.limit = 2 * time.Second
	_, err = take.fetch(t.Context(), s, key, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "did not come within 2s") {
		t.Errorf("got %v", err)
	}
	if left := missing(t, target, paths(samples)); slices.Contains(left, samples[0].info.Path) {
		t.Errorf("missing: %q", left)
	}
}

func TestARelayWithAnotherKeyIsNotAsked(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	chrootStore(t, host)
	target, _ := connect(t, host)
	take := beginTake(t, target)
	asked := false
	from := liar(t, take.key, func(io.Writer) { asked = true })
	from.Key = newKey(t).hash
	_, _, err := take.from(t, from, chain(t))
	if err == nil || !strings.Contains(err.Error(), errOtherKey.Error()) || !strings.Contains(err.Error(), "relay-1") {
		t.Errorf("got %v", err)
	}
	if asked {
		t.Error("it was asked all the same")
	}
}

func TestATakeEndsWithItsStream(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	chrootStore(t, host)
	target, _ := connect(t, host)
	ctx, cancel := context.WithCancel(t.Context())
	take := beginTakeUntil(ctx, t, target)
	closed := make(chan struct{})
	from := liar(t, take.key, func(w io.Writer) {
		cancel()
		_, _ = io.Copy(io.Discard, w.(net.Conn))
		close(closed)
	})
	samples := chain(t)
	if err := proto.WriteTake(take.stream, from, []proto.PathInfo{samples[0].info}); err != nil {
		t.Fatal(err)
	}
	_ = take.stream.CloseWrite()
	<-closed
	if err := take.stream.Result(nil); err == nil {
		t.Error("a cancelled take has a result")
	}
}
