package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/daemon"
	"fleet/closure/direct"
	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

func TestUnitsBecomePaths(t *testing.T) {
	host := testHost(t)
	store := chrootStore(t, host)
	client, _ := connect(t, host)
	l := newLoad(t, t.Name())
	if result := askMissing(t, client, l); len(result.Missing) != len(l.infos) {
		t.Errorf("before: %+v", result)
	}
	h, result, err := pushUnits(t, client, t.Name(), l)
	if err != nil {
		t.Fatal(err)
	}
	if *h.next != 0 || int(h.received) != len(l.units) || int(result.Paths) != len(l.infos) {
		t.Errorf("from unit %d, %d units, %+v", *h.next, h.received, result)
	}
	checkArrived(t, client, h, l)
	last := l.infos[len(l.infos)-1]
	if got := read(t, store.Root+last.Path.String()); !strings.HasPrefix(got, t.Name()+" 11 ") {
		t.Errorf("contents: %.40q", got)
	}
	if _, result, err := pushUnits(t, client, t.Name()+"again", l); err != nil || int(result.Paths) != len(l.infos) {
		t.Errorf("again: %+v, %v", result, err)
	}
}

// checkArrived compares what the host has, and what it has said of that, with what was sent.
func checkArrived(t *testing.T, client *proto.Client, h *heard, l *load) {
	t.Helper()
	seen := map[string]bool{}
	for _, path := range h.paths {
		info := l.infos[slices.Index(l.names(), path)]
		for _, ref := range info.References {
			if ref != info.Path && !seen[ref.String()] {
				t.Errorf("%s was registered before %s", path, ref)
			}
		}
		if seen[path] {
			t.Errorf("%s was registered twice", path)
		}
		seen[path] = true
	}
	if len(seen) != len(l.infos) {
		t.Errorf("%d paths of %d are registered", len(seen), len(l.infos))
	}
	var got proto.ClosureResult
	if err := client.Call(t.Context(), proto.MethodClosure, proto.ClosureRequest{Roots: l.names()}, &got); err != nil {
		t.Fatal(err)
	}
	var want []proto.PathInfo
	for _, s := range l.samples() {
		want = append(want, s.info)
	}
	byName := func(a, b proto.PathInfo) int { return strings.Compare(a.Path, b.Path) }
	slices.SortFunc(want, byName)
	slices.SortFunc(got.Paths, byName)
	if diff := cmp.Diff(want, got.Paths); diff != "" {
		t.Errorf("the host has other paths: %s", diff)
	}
}

func TestUnitsMayComeOverSeveralConnections(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	client, s := connect(t, host)
	l := newLoad(t, t.Name())
	req := proto.ImportRequest{Transfer: transferName(t.Name())}
	h := openTransfer(t, client, req)
	h.awaitNext(t)
	const channels = 3
	var sending sync.WaitGroup
	for number := range channels {
		stream := h.stream
		if req.Channel = number; number > 0 {
			stream = openChannel(t, connectTo(t, s), req)
		}
		sending.Go(func() {
			// The first units come last.
			out := proto.NewUnitWriter(stream)
			for i := channels - 1 - number; i < len(l.units); i += channels {
				if err := out.Unit(uint32(i), l.units[i]); err != nil {
					t.Error(err)
				}
			}
			if number == 0 {
				if err := out.End(uint32(len(l.units))); err != nil {
					t.Error(err)
				}
			}
			if err := stream.CloseWrite(); err != nil {
				t.Error(err)
			}
			if number > 0 {
				if err := stream.Result(nil); err != nil {
					t.Errorf("channel %d: %v", number, err)
				}
			}
		})
	}
	if _, err := h.end(); err != nil {
		t.Fatal(err)
	}
	sending.Wait()
	checkArrived(t, client, h, l)
}

// brittle is a connection that breaks when a number of bytes were written, or only falls silent then.
type brittle struct {
	net.Conn
	left   int
	silent bool
}

func (b *brittle) Write(p []byte) (int, error) {
	if len(p) <= b.left {
		b.left -= len(p)
		return b.Conn.Write(p)
	}
	n, _ := b.Conn.Write(p[:b.left])
	b.left -= n
	if b.silent {
		return len(p), nil
	}
	b.Conn.Close()
	return n, net.ErrClosed
}

// brittleClient is a client whose connection lasts for a number of bytes.
func brittleClient(t *testing.T, s *session, bytes int, silent bool) *proto.Client {
	t.Helper()
	near, far := net.Pipe()
	go func() { _ = proto.Serve(context.Background(), far, "0123456789", s) }()
	client, err := proto.NewClient(t.Context(), &brittle{near, bytes, silent}, proto.Hello{Token: "0123456789"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		client.Close()
	})
	return client
}

func TestATransferGoesOnAfterABrokenConnection(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	steady, s := connect(t, host)
	size := 0
	for _, unit := range newLoad(t, "").units {
		size += len(unit)
	}
	for _, silent := range []bool{false, true} {
		for _, part := range []int{0, 1, 3, 30, 50, 70, 98, 100} {
			t.Run(fmt.Sprintf("silent=%v/%d%%", silent, part), func(t *testing.T) {
				l := newLoad(t, t.Name())
				req := proto.ImportRequest{Transfer: transferName(t.Name())}
				// Hello and request need some bytes too.
				first := openTransfer(t, brittleClient(t, s, 600+size/100*part, silent), req)
				from := first.awaitNext(t)
				sent := make(chan error, 1)
				go func() { sent <- send(first.stream, l.units, from) }()
				if !silent {
					<-first.over
				} else if part > 0 {
					first.await(t, "anything arrived", func() bool { return first.received > 0 })
				}
				first.mu.Lock()
				req.Attempt, req.Acked = 2, len(first.paths)
				acked, received := slices.Clone(first.paths), first.received
				first.mu.Unlock()
				second := openTransfer(t, connectTo(t, s), req)
				next := second.awaitNext(t)
				if next < received {
					t.Errorf("unit %d is expected, and %d were received", next, received)
				}
				if err := send(second.stream, l.units, next); err != nil {
					t.Fatal(err)
				}
				result, err := second.end()
				if err != nil || int(result.Paths) != len(l.infos) {
					t.Fatalf("%+v, %v", result, err)
				}
				second.paths = append(acked, second.paths...)
				checkArrived(t, steady, second, l)
			})
		}
	}
}

func TestTheEndOfATransferIsToldAgain(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	l := newLoad(t, t.Name())
	h, want, err := pushUnits(t, client, t.Name(), l)
	if err != nil {
		t.Fatal(err)
	}
	again := openTransfer(t, client, proto.ImportRequest{Transfer: transferName(t.Name()), Attempt: 2, Acked: 3})
	got, err := again.end()
	if err != nil || got != want || !slices.Equal(again.paths, h.paths[3:]) || int(*again.next) != len(l.units) {
		t.Errorf("%+v, %v, next %d", got, err, *again.next)
	}
}

func TestOnlyTheNewestAttemptCounts(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	client, s := connect(t, host)
	req := proto.ImportRequest{Transfer: transferName(t.Name()), Attempt: 3}
	refused := func(what string, req proto.ImportRequest, code proto.ErrorCode) {
		t.Helper()
		if err := openChannel(t, client, req).Result(nil); proto.CodeOf(err) != code {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("an unknown transfer that goes on", req, proto.CodeNotFound)
	refused("a channel of an unknown transfer", proto.ImportRequest{Transfer: req.Transfer, Channel: 1}, proto.CodeNotFound)
	req.Attempt = 1
	first := openTransfer(t, client, req)
	first.awaitNext(t)
	side := openChannel(t, connectTo(t, s), proto.ImportRequest{Transfer: req.Transfer, Channel: 1})
	// That the channel is one of the transfer's is seen from this.
	if err := proto.NewUnitWriter(side).Unit(1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the unit is held", func() bool { return s.transfer.holds(1) })
	refused("the same channel again", proto.ImportRequest{Transfer: req.Transfer, Channel: 1}, proto.CodeUsage)
	refused("more reports than there were", proto.ImportRequest{Transfer: req.Transfer, Attempt: 2, Acked: 1}, proto.CodeUsage)
	req.Attempt = 5
	second := openTransfer(t, client, req)
	if next := second.awaitNext(t); next != 0 {
		t.Errorf("unit %d is expected", next)
	}
	for name, stream := range map[string]*proto.Stream{"channel 0": first.stream, "channel 1": side} {
		if err := stream.Result(nil); proto.CodeOf(err) != proto.CodeCancelled {
			t.Errorf("%s of the first attempt: %v", name, err)
		}
	}
	req.Attempt = 4
	refused("a late request", req, proto.CodeCancelled)
	refused("a late channel", proto.ImportRequest{Transfer: req.Transfer, Attempt: 1, Channel: 2}, proto.CodeCancelled)
	l := newLoad(t, t.Name())
	if err := send(second.stream, l.units, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := second.end(); err != nil {
		t.Error(err)
	}
}

// holds says whether a unit has come and was not taken.
func (t *transfer) holds(number uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.units.held[number] != nil
}

func TestAnotherTransferEndsAnAbandonedOneAndWaitsForOneThatIsOpen(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	client, s := connect(t, host)
	l := newLoad(t, t.Name())
	first := openTransfer(t, client, proto.ImportRequest{Transfer: transferName("first" + t.Name())})
	first.awaitNext(t)
	if err := proto.NewUnitWriter(first.stream).Unit(0, l.units[0]); err != nil {
		t.Fatal(err)
	}
	first.await(t, "the first path was registered", func() bool { return len(first.paths) == 1 })
	second := openTransfer(t, client, proto.ImportRequest{Transfer: transferName("second" + t.Name())})
	select {
	case <-second.changed:
		t.Error("two transfers are open at a time")
	case <-time.After(50 * time.Millisecond): // it cannot be waited for that nothing happens
	}
	first.stream.Cancel()
	second.awaitNext(t)
	if err := send(second.stream, l.units, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := second.end(); err != nil {
		t.Error(err)
	}
	gone := openChannel(t, connectTo(t, s), proto.ImportRequest{Transfer: transferName("first" + t.Name()), Attempt: 2})
	if err := gone.Result(nil); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("the abandoned transfer: %v", err)
	}
}

func TestTheEndOfTheSessionEndsItsTransfer(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	client, s := connect(t, host)
	l := newLoad(t, t.Name())
	h := openTransfer(t, client, proto.ImportRequest{Transfer: transferName(t.Name())})
	h.awaitNext(t)
	out := proto.NewUnitWriter(h.stream)
	// The large path is open then.
	for i := range 6 {
		if err := out.Unit(uint32(i), l.units[i]); err != nil {
			t.Fatal(err)
		}
	}
	h.await(t, "the units were received", func() bool { return h.received == 6 })
	s.close()
	if _, err := h.end(); proto.CodeOf(err) != proto.CodeCancelled {
		t.Error(err)
	}
	if err := openChannel(t, client, proto.ImportRequest{Transfer: transferName("x" + t.Name())}).Result(nil); proto.CodeOf(err) != proto.CodeCancelled {
		t.Errorf("a transfer after the end: %v", err)
	}
}

// frame is a unit as a channel carries it.
func frame(number uint32, unit string) string {
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, number), uint32(len(unit)))
	return string(head) + unit
}

// lies are senders that do not send what they should. Each changes a load before it is packed, or says what is sent.
func lies(t *testing.T) map[string]lie {
	join := func(l *load, numbers ...int) string {
		var text strings.Builder
		for _, n := range numbers {
			text.WriteString(frame(uint32(n), string(l.units[n])))
		}
		return text.String()
	}
	return map[string]lie{
		"another hash":                          {change: func(l *load) { l.infos[3].NarHash[5] ^= 1 }, code: proto.CodeCorrupt, path: 3},
		"another hash of a large path":          {change: func(l *load) { l.infos[5].NarHash[5] ^= 1 }, code: proto.CodeCorrupt, path: 5},
		"something that is no NAR":              {change: func(l *load) { l.replace(2, []byte("no NAR, but its hash is right")) }, code: proto.CodeCorrupt, path: 2},
		"a file of exabytes":                    {change: func(l *load) { l.replace(2, enlarge(l.nars[l.infos[2].Path])) }, code: proto.CodeCorrupt, path: 2},
		"a file of exabytes in a large path":    {change: func(l *load) { l.replace(5, enlarge(l.nars[l.infos[5].Path])) }, code: proto.CodeCorrupt, path: 5},
		"less than was announced":               {change: func(l *load) { l.resize(2, func(nar []byte) []byte { return nar[:len(nar)-8] }) }, code: proto.CodeCorrupt, path: 2},
		"less of a large path":                  {change: func(l *load) { l.resize(5, func(nar []byte) []byte { return nar[:len(nar)-8] }) }, code: proto.CodeCorrupt, path: 5},
		"more than was announced":               {change: func(l *load) { l.resize(2, func(nar []byte) []byte { return append(bytes.Clone(nar), nar[:8]...) }) }, code: proto.CodeCorrupt, path: 2},
		"a NAR that is cut":                     {change: func(l *load) { l.replace(2, cutShort(l.nars[l.infos[2].Path])) }, code: proto.CodeCorrupt, path: 2},
		"a large NAR that is cut":               {change: func(l *load) { l.replace(5, cutShort(l.nars[l.infos[5].Path])) }, code: proto.CodeCorrupt, path: 5},
		"something behind a NAR":                {change: func(l *load) { l.replace(2, prolong(l.nars[l.infos[2].Path])) }, code: proto.CodeCorrupt, path: 2},
		"something behind a large NAR":          {change: func(l *load) { l.replace(5, prolong(l.nars[l.infos[5].Path])) }, code: proto.CodeCorrupt, path: 5},
		"a name that leads out":                 {change: func(l *load) { l.replace(2, folder(t, "xx", "..", 10)) }, code: proto.CodeCorrupt, path: 2},
		"a name that leads out of a large path": {change: func(l *load) { l.replace(5, folder(t, "xx", "..", 9<<20)) }, code: proto.CodeCorrupt, path: 5},
		"a name with a slash":                   {change: func(l *load) { l.replace(2, folder(t, "m-b", "m/b", 10)) }, code: proto.CodeCorrupt, path: 2},
		"a name twice":                          {change: func(l *load) { l.replace(2, folder(t, "xx", "aa", 10)) }, code: proto.CodeCorrupt, path: 2},
		"a name with a NUL":                     {change: func(l *load) { l.replace(2, folder(t, "m-b", "m\x00b", 10)) }, code: proto.CodeCorrupt, path: 2},
		"contents that have another address":    {change: func(l *load) { l.infos[3].CA = "fixed:r:sha256:" + strings.Repeat("0", 52) }, code: proto.CodeCorrupt, path: 3},
		"an address that is none":               {change: func(l *load) { l.infos[3].CA = "here" }, code: proto.CodeInternal, path: 3},
		"paths that refer to each other": {
			change: func(l *load) { l.infos[4].References = append(l.infos[4].References, l.infos[5].Path) },
			code:   proto.CodeNotFound, path: 4,
		},
		"a reference that nobody has": {
			change: func(l *load) { l.infos[4].References = []storepath.Path{mustParse(t, strings.Repeat("z", 32)+"-gone")} },
			code:   proto.CodeNotFound, path: 4,
		},
		"a unit twice":                   {send: func(l *load) string { return join(l, 0, 0) }, code: proto.CodeCorrupt},
		"a unit backwards":               {send: func(l *load) string { return join(l, 1, 0) }, code: proto.CodeCorrupt},
		"a path twice":                   {send: func(l *load) string { return join(l, 0) + frame(1, string(l.units[0])) + frame(2, "") }, code: proto.CodeCorrupt},
		"paths before their references":  {send: func(l *load) string { return frame(0, string(l.units[3])) + frame(1, "") }, code: proto.CodeNotFound, path: 3},
		"a gap, and no more":             {send: func(l *load) string { return join(l, 0, 2) + frame(3, "") }, code: proto.CodeCorrupt},
		"a gap that is large":            {send: func(l *load) string { return join(l, 0) + frame(1000, "x") }, code: proto.CodeCorrupt},
		"fewer units than there were":    {send: func(l *load) string { return join(l, 0, 1) + frame(9, "") }, code: proto.CodeCorrupt},
		"a large path that does not end": {send: func(l *load) string { return join(l, 0, 1, 2, 3, 4, 5) + frame(6, "") }, code: proto.CodeCorrupt},
		"segments in another order":      {send: func(l *load) string { return join(l, 0, 1, 2, 3, 4, 5) + frame(6, string(l.units[7])) }, code: proto.CodeCorrupt},
		"an endless unit":                {send: func(l *load) string { return join(l, 0) + "\x00\x00\x00\x01\xff\xff\xff\xff" }, code: proto.CodeCorrupt},
		"something that is no unit":      {send: func(l *load) string { return join(l, 0) + frame(1, "not a unit") }, code: proto.CodeCorrupt},
		"a unit that is cut":             {send: func(l *load) string { return join(l, 0)[:100] }, code: proto.CodeCorrupt},
		"no end":                         {send: func(l *load) string { return join(l, 0) }, code: proto.CodeCorrupt},
		"nothing at all":                 {send: func(l *load) string { return "" }, code: proto.CodeCorrupt},
	}
}

type lie struct {
	change func(l *load)
	send   func(l *load) string
	code   proto.ErrorCode
	// path is the one that the error names, 0 where it names none.
	path int
}

func (l *load) replace(i int, archive []byte) {
	l.nars[l.infos[i].Path] = archive
	l.infos[i].NarHash, l.infos[i].NarSize = sha256.Sum256(archive), uint64(len(archive))
}

// resize changes what is sent and its size, but not the hash that is announced.
func (l *load) resize(i int, change func(nar []byte) []byte) {
	hash := l.infos[i].NarHash
	l.replace(i, change(l.nars[l.infos[i].Path]))
	l.infos[i].NarHash = hash
}

func cutShort(archive []byte) []byte { return archive[:len(archive)-16] }

func prolong(archive []byte) []byte { return append(bytes.Clone(archive), make([]byte, 8)...) }

// folder is the NAR of a folder with two files, the second of which has another name than it was written with. Its contents are of that size.
func folder(t *testing.T, written, name string, size int) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := nar.NewWriter(&archive)
	err := w.Directory("")
	for _, file := range []string{"aa", written} {
		err = errors.Join(err, w.File(file, false, uint64(size), strings.NewReader(strings.Repeat("z", size))))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(archive.Bytes(), []byte(written), []byte(name), 1)
}

// enlarge makes a NAR of a file say that the file is enormous.
func enlarge(archive []byte) []byte {
	archive = bytes.Clone(archive)
	archive[24+8+8+8+8+8+8+8+8+6] ^= 1 // a high byte of the contents' length
	return archive
}

func mustParse(t *testing.T, base string) storepath.Path {
	t.Helper()
	path, err := storepath.ParseBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhoeverLiesIsNotBelieved(t *testing.T) {
	for name, tc := range lies(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := testHost(t)
			chrootStore(t, host)
			client, s := connect(t, host)
			s.patience = 50 * time.Millisecond
			l := newLoad(t, t.Name())
			if tc.change != nil {
				tc.change(l)
				l.pack(t, nil)
			}
			h := openTransfer(t, client, proto.ImportRequest{Transfer: transferName(t.Name())})
			go func() {
				if tc.send != nil {
					_, _ = io.WriteString(h.stream, tc.send(l))
				} else {
					_ = send(h.stream, l.units, 0)
				}
				_ = h.stream.CloseWrite()
			}()
			_, err := h.end()
			checkLie(t, err, tc, l)
			good := newLoad(t, t.Name()+"good")
			h, _, err = pushUnits(t, client, t.Name()+"good", good)
			if err != nil {
				t.Fatalf("the session does not go on: %v", err)
			}
			checkArrived(t, client, h, good)
		})
	}
}

func checkLie(t *testing.T, err error, tc lie, l *load) {
	t.Helper()
	e, ok := errors.AsType[*proto.Error](err)
	if !ok || e.Code != tc.code {
		t.Fatalf("got %v", err)
	}
	var data proto.PathData
	_ = json.Unmarshal(e.Data, &data)
	if tc.path > 0 && data.Path != l.infos[tc.path].Path.String() {
		t.Errorf("the error names %q: %v", data.Path, e)
	}
}

func TestUnitsOnTwoChannelsAreOneOrder(t *testing.T) {
	l := newLoad(t, t.Name())
	for name, text := range map[string]string{
		"a unit that came over another channel": frame(0, string(l.units[0])), "the end": frame(3, ""), "no unit": "xxxxxxxx",
	} {
		t.Run(name, func(t *testing.T) {
			host := testHost(t)
			chrootStore(t, host)
			client, s := connect(t, host)
			h := openTransfer(t, client, proto.ImportRequest{Transfer: transferName(t.Name())})
			h.awaitNext(t)
			if err := proto.NewUnitWriter(h.stream).Unit(0, l.units[0]); err != nil {
				t.Fatal(err)
			}
			h.await(t, "the unit was received", func() bool { return h.received == 1 })
			side := openChannel(t, connectTo(t, s), proto.ImportRequest{Transfer: transferName(t.Name()), Channel: 1})
			if _, err := io.WriteString(side, text); err != nil {
				t.Fatal(err)
			}
			for which, err := range map[string]error{"channel 1": side.Result(nil), "channel 0": second(h.end())} {
				if proto.CodeOf(err) != proto.CodeCorrupt {
					t.Errorf("%s: %v", which, err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestAnImportThatIsNoneIsRefused(t *testing.T) {
	host := testHost(t)
	client, _ := connect(t, host)
	name := transferName(t.Name())
	for what, req := range map[string]proto.ImportRequest{
		"a short name": {Transfer: "short", Attempt: 1}, "a long name": {Transfer: strings.Repeat("x", 65), Attempt: 1},
		"a path for a name": {Transfer: strings.Repeat("../", 10), Attempt: 1}, "channel 8": {Transfer: name, Channel: 8, Attempt: 1},
		"channel -1": {Transfer: name, Channel: -1, Attempt: 1}, "attempt -1": {Transfer: name, Attempt: -1},
		"fewer reports than none": {Transfer: name, Attempt: 1, Acked: -1},
	} {
		if err := openChannel(t, client, req).Result(nil); proto.CodeOf(err) != proto.CodeUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// baseLine is a base as a client states it.
func baseLine(info storepath.Info) string {
	return info.Path.Base() + " " + hex.EncodeToString(info.NarHash[:])[:proto.BaseSumLength]
}

// changed is a load that is almost the same as another one, and the bases that its deltas are made against.
func changed(t *testing.T, old *load, salt string) (*load, map[storepath.Path]storepath.Info) {
	t.Helper()
	l := &load{}
	bases := map[storepath.Path]storepath.Info{}
	for i, before := range old.infos {
		contents := salt + string(old.nars[before.Path][96:])
		info := l.add(t, fmt.Sprintf("path-%d", i), contents)
		bases[info.Path] = before
	}
	for path, archive := range old.nars {
		l.nars[path] = archive
	}
	l.pack(t, bases)
	return l, bases
}

func TestDeltasAreMadeOfWhatTheHostHas(t *testing.T) {
	host := testHost(t)
	store := chrootStore(t, host)
	client, _ := connect(t, host)
	old := newLoad(t, t.Name())
	if _, _, err := pushUnits(t, client, t.Name(), old); err != nil {
		t.Fatal(err)
	}
	l, bases := changed(t, old, "new")
	var lines []string
	for _, info := range l.infos {
		lines = append(lines, baseLine(bases[info.Path]))
	}
	wrong := bases[l.infos[1].Path]
	wrong.NarHash[0] ^= 1
	stranger, _ := storetest.Prepare(t, storetest.Text{Name: "stranger"})
	result := askMissing(t, client, l, append(lines, baseLine(wrong), baseLine(stranger), strings.Fields(lines[0])[0])...)
	if want := []int{len(lines), len(lines) + 1, len(lines) + 2}; !slices.Equal(result.Refused, want) {
		t.Errorf("refused: %v, not %v", result.Refused, want)
	}
	sent := 0
	for _, unit := range l.units {
		sent += len(unit)
	}
	if sent > 1<<20 {
		t.Errorf("the deltas have %d bytes", sent)
	}
	h, _, err := pushUnits(t, client, "new"+t.Name(), l)
	if err != nil {
		t.Fatal(err)
	}
	for path := range bases {
		if _, ours := l.nars[path]; !ours {
			t.Errorf("%s is missing", path)
		}
	}
	l.checkContents(t, store, h)
}

// checkContents compares files with what was sent.
func (l *load) checkContents(t *testing.T, store *storetest.Store, h *heard) {
	t.Helper()
	for _, info := range l.infos {
		got, err := os.ReadFile(store.RealPath(info.Path))
		if err != nil || !bytes.Contains(l.nars[info.Path], got) {
			t.Errorf("%s: %d bytes, %v", info.Path, len(got), err)
		}
	}
	if len(h.paths) != len(l.infos) {
		t.Errorf("%d paths of %d are registered", len(h.paths), len(l.infos))
	}
}

func TestADeltaThatDoesNotFitIsNamed(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, store *storetest.Store, base storepath.Info){
		"a base that was not agreed on": nil,
		"a base whose contents were changed": func(t *testing.T, store *storetest.Store, base storepath.Info) {
			changeFile(t, store.RealPath(base.Path), func(text []byte) []byte { text[len(text)/2] ^= 1; return text })
		},
		"a base that has become shorter": func(t *testing.T, store *storetest.Store, base storepath.Info) {
			changeFile(t, store.RealPath(base.Path), func(text []byte) []byte { return text[:len(text)-9] })
		},
		"a base that is gone": func(t *testing.T, store *storetest.Store, base storepath.Info) {
			if err := os.Remove(store.RealPath(base.Path)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, place := range []int{3, 5} {
			t.Run(fmt.Sprintf("%s/%d", name, place), func(t *testing.T) {
				host := testHost(t)
				store := chrootStore(t, host)
				client, _ := connect(t, host)
				old := newLoad(t, t.Name())
				if _, _, err := pushUnits(t, client, t.Name(), old); err != nil {
					t.Fatal(err)
				}
				l, bases := changed(t, old, "new")
				for path := range bases {
					if path != l.infos[place].Path {
						delete(bases, path)
					}
				}
				l.pack(t, bases)
				base := bases[l.infos[place].Path]
				if spoil != nil {
					askMissing(t, client, l, baseLine(base))
					spoil(t, store, base)
				}
				_, _, err := pushUnits(t, client, "new"+t.Name(), l)
				checkLie(t, err, lie{code: proto.CodeCorrupt, path: place}, l)
				l.pack(t, nil)
				if _, _, err := pushUnits(t, client, "whole"+t.Name(), l); err != nil {
					t.Errorf("without a base: %v", err)
				}
			})
		}
	}
}

func changeFile(t *testing.T, name string, change func([]byte) []byte) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(name, 0o644), os.WriteFile(name, change(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestOneQuestionIsEnoughForAPushOfNothing(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	l := newLoad(t, t.Name())
	last := l.infos[len(l.infos)-1].Path
	roots := []proto.RootRequest{{Name: "prod-web", Path: last.String()}, {Name: "prod-web-2", Path: l.infos[0].Path.String()}}
	ask := func(req proto.MissingRequest) proto.MissingResult {
		t.Helper()
		var result proto.MissingResult
		if err := client.Call(t.Context(), proto.MethodMissing, req, &result); err != nil {
			t.Fatal(err)
		}
		return result
	}
	if result := ask(proto.MissingRequest{Paths: []string{last.Base()}, Roots: roots}); result.Rooted || len(result.Missing) != 1 {
		t.Errorf("before: %+v", result)
	}
	if _, _, err := pushUnits(t, client, t.Name(), l); err != nil {
		t.Fatal(err)
	}
	if result := ask(proto.MissingRequest{Paths: []string{last.Base()}, Roots: roots}); !result.Rooted || len(result.Missing) != 0 {
		t.Errorf("after: %+v", result)
	}
	for _, root := range roots {
		if target, _ := os.Readlink(host.rootsDir() + "/" + root.Name); target != root.Path {
			t.Errorf("root %s leads to %q", root.Name, target)
		}
	}
	if result := ask(proto.MissingRequest{Known: []string{last.String()}, Roots: roots}); !result.Rooted {
		t.Errorf("what is known is enough: %+v", result)
	}
	stranger, _ := storetest.Prepare(t, storetest.Text{Name: "stranger"})
	if result := ask(proto.MissingRequest{Known: []string{stranger.Path.String()}, Roots: roots}); result.Rooted || !result.Unknown {
		t.Errorf("what is not known is not enough: %+v", result)
	}
	for what, req := range map[string]proto.MissingRequest{
		"a known path outside of the store": {Known: []string{"/etc"}}, "a path outside of the store": {Paths: []string{"../etc"}},
		"a base outside of the store": {Paths: []string{stranger.Path.Base()}, Bases: []string{"../etc 00"}},
	} {
		if err := client.Call(t.Context(), proto.MethodMissing, req, nil); proto.CodeOf(err) != proto.CodeUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// mortal opens connections to a daemon that can be made to die.
type mortal struct {
	socket string
	mu     sync.Mutex
	conns  []net.Conn
}

func (m *mortal) open(ctx context.Context) (*daemon.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", m.socket)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.conns = append(m.conns, conn)
	m.mu.Unlock()
	return daemon.NewConn(ctx, conn, daemon.ConnOptions{})
}

func (m *mortal) die() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, conn := range m.conns {
		conn.Close()
	}
	m.conns = nil
}

func TestADaemonThatDiesCostsNoMoreThanTheTransfer(t *testing.T) {
	host := testHost(t)
	store := chrootStore(t, host)
	m := &mortal{socket: store.Socket()}
	host.OpenStore = m.open
	client, _ := connect(t, host)
	for _, tc := range []struct {
		after, registered int
		// streams: a large path is under way, which cannot be read again.
		streams bool
	}{{1, 1, false}, {3, 3, false}, {6, 5, true}, {8, 7, false}, {13, 12, false}} {
		t.Run(fmt.Sprintf("after %d units", tc.after), func(t *testing.T) {
			l := newLoad(t, t.Name())
			askMissing(t, client, l)
			h := openTransfer(t, client, proto.ImportRequest{Transfer: transferName(t.Name())})
			h.awaitNext(t)
			out := proto.NewUnitWriter(h.stream)
			for i := range tc.after {
				if err := out.Unit(uint32(i), l.units[i]); err != nil {
					t.Fatal(err)
				}
			}
			h.await(t, "the paths were registered", func() bool { return int(h.received) == tc.after && len(h.paths) == tc.registered })
			m.die()
			for i := tc.after; i < len(l.units); i++ {
				if err := out.Unit(uint32(i), l.units[i]); err != nil {
					break // its result says why
				}
			}
			_ = out.End(uint32(len(l.units)))
			if _, err := h.end(); err != nil && !tc.streams || proto.CodeOf(err) == proto.CodeCorrupt {
				t.Errorf("got %v", err)
			}
			if left := askMissing(t, client, l); len(left.Missing) > len(l.infos)-len(h.paths) {
				t.Errorf("%d paths were reported, and %d of %d are missing", len(h.paths), len(left.Missing), len(l.infos))
			}
			m.die()
			if _, _, err := pushUnits(t, client, "again"+t.Name(), l); err != nil {
				t.Errorf("the session does not go on: %v", err)
			}
		})
	}
}

func TestPathsThatAppearMeanwhileAreTaken(t *testing.T) {
	host := testHost(t)
	store := chrootStore(t, host)
	client, _ := connect(t, host)
	l := newLoad(t, t.Name())
	askMissing(t, client, l)
	conn := store.Connect()
	for _, info := range l.infos[:8] {
		if err := conn.AddToStoreNar(t.Context(), info, bytes.NewReader(l.nars[info.Path]), daemon.AddOptions{SkipSignatures: true}); err != nil {
			t.Fatal(err)
		}
	}
	h, _, err := pushUnits(t, client, t.Name(), l)
	if err != nil {
		t.Fatal(err)
	}
	checkArrived(t, client, h, l)
}

func TestUnitsThatDoNotFitLeaveNothingBehind(t *testing.T) {
	requireRoot(t)
	dir := smallDisk(t, "12m")
	host := testHost(t)
	host.OpenStore = func(ctx context.Context) (*daemon.Conn, error) { return daemon.Open(ctx, daemon.Options{Store: dir}) }
	host.StoreRoot = dir
	client, _ := connect(t, host)
	l := newLoad(t, t.Name())
	_, _, err := pushUnits(t, client, t.Name(), l)
	if e, ok := errors.AsType[*proto.Error](err); !ok || e.Code != proto.CodeStoreFull || !strings.Contains(e.Remedy, "nix-collect-garbage") {
		t.Errorf("got %v", err)
	}
	if free := freeBytes(t, dir); free < 4<<20 {
		t.Errorf("the path that did not fit still fills the store: %d bytes are free", free)
	}
}

// ownStoreHost is a host whose store is the tests' own /nix, and which may import without the daemon.
func ownStoreHost(t *testing.T) *Host {
	t.Helper()
	requireRoot(t)
	storetest.RequireNix(t)
	host := testHost(t)
	conn, err := host.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close() // there is a database now
	if err := direct.Possible(t.Context(), direct.Options{}); err != nil {
		if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return host
}

func TestLargePushesGoWithoutTheDaemon(t *testing.T) {
	host := ownStoreHost(t)
	client, s := connect(t, host)
	l := newLoad(t, t.Name())
	pushDirect := func(salt string) (*heard, error) {
		askMissing(t, client, l)
		h := openTransfer(t, client, proto.ImportRequest{Transfer: transferName(salt + t.Name()), Bytes: directBytes})
		go func() { _ = send(h.stream, l.units, 0) }()
		_, err := h.end()
		return h, err
	}
	h, err := pushDirect("")
	if err != nil {
		t.Fatal(err)
	}
	checkArrived(t, client, h, l)
	if !s.direct {
		t.Error("the daemon was asked")
	}
	for name, tc := range lies(t) {
		if tc.change == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			l = newLoad(t, t.Name())
			tc.change(l)
			l.pack(t, nil)
			_, err := pushDirect(name)
			checkLie(t, err, tc, l)
		})
	}
}

// baseRecorder notes which bases an intake knows of the paths that it gives to the store.
type baseRecorder struct {
	in    *intake
	bases map[storepath.Path]storepath.Path
}

func (r *baseRecorder) Import(info storepath.Info, archive io.Reader) error {
	r.bases[info.Path] = r.in.base(info.Path)
	_, err := io.Copy(io.Discard, archive)
	return err
}

func (r *baseRecorder) Wait() error  { return nil }
func (r *baseRecorder) Close() error { return nil }

func TestOnlyBasesThatWereAgreedOnAreHandedToTheStore(t *testing.T) {
	storetest.RequireNix(t)
	_, s := connect(t, testHost(t))
	path := func(name string) storepath.Path {
		path, err := storepath.ParseBase(strings.Repeat("1", 32) + "-" + name)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	agreed := path("agreed")
	s.bases = map[storepath.Path]storepath.Info{agreed: {Path: agreed}}
	in := s.openIntake(t.Context(), proto.ImportRequest{}, func(storepath.Path) {})
	recorder := &baseRecorder{in: in, bases: make(map[storepath.Path]storepath.Path)}
	in.store = recorder
	var archive bytes.Buffer
	w := nar.NewWriter(&archive)
	if err := errors.Join(w.Directory(""), w.Close()); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ sent, want storepath.Path }{
		"like-an-agreed-one": {agreed, agreed}, "like-another": {path("other"), storepath.Path{}}, "like-none": {},
	} {
		info := storepath.Info{Path: path(name), NarSize: uint64(archive.Len())}
		if err := in.Path(t.Context(), info, test.sent, bytes.NewReader(archive.Bytes())); err != nil {
			t.Fatal(err)
		}
		if got := recorder.bases[info.Path]; got != test.want {
			t.Errorf("%s: %q, not %q", name, got, test.want)
		}
	}
}
