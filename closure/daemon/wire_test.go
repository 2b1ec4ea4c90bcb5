package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/storepath"
	"fleet/closure/wire"
)

const helloText = "/nix/store/0c4d6b8z1v2x3y5w7q9rsndfghijklmp-hello"

// encode writes with the wire.Encoder under test.
func encode(t testing.TB, write func(e wire.Encoder)) []byte {
	t.Helper()
	var out bytes.Buffer
	e := wire.Encoder{Writer: bufio.NewWriter(&out)}
	write(e)
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decode(data []byte) decoder { return decoder{bufio.NewReader(bytes.NewReader(data))} }

func TestStringsArePaddedToEightBytes(t *testing.T) {
	for size := range 18 {
		text := strings.Repeat("x", size)
		data := encode(t, func(e wire.Encoder) { e.Text(text) })
		if want := 8 + (size+7)/8*8; len(data) != want {
			t.Errorf("%d characters take %d bytes, not %d", size, len(data), want)
		}
		if back, err := decode(data).text(100); err != nil || back != text {
			t.Errorf("%q, %v", back, err)
		}
	}
}

func TestDecoderRefuses(t *testing.T) {
	for rule, test := range map[string]struct {
		data []byte
		read func(decoder) error
	}{
		"padding":              {[]byte("\x01\x00\x00\x00\x00\x00\x00\x00x\x00\x00\x00\x00\x00\x00\x01"), func(d decoder) error { _, err := d.text(100); return err }},
		"string over limit":    {encode(t, func(e wire.Encoder) { e.Text("123") }), func(d decoder) error { _, err := d.text(2); return err }},
		"huge string":          {encode(t, func(e wire.Encoder) { e.Number(math.MaxUint64) }), func(d decoder) error { _, err := d.text(math.MaxUint64); return err }},
		"huge list":            {encode(t, func(e wire.Encoder) { e.Number(1 << 40) }), func(d decoder) error { _, err := d.paths(); return err }},
		"boolean":              {encode(t, func(e wire.Encoder) { e.Number(2) }), func(d decoder) error { _, err := d.flag(); return err }},
		"path elsewhere":       {encode(t, func(e wire.Encoder) { e.Texts([]string{"/etc/passwd"}) }), func(d decoder) error { _, err := d.paths(); return err }},
		"empty path in a set":  {encode(t, func(e wire.Encoder) { e.Texts([]string{""}) }), func(d decoder) error { _, err := d.paths(); return err }},
		"hash that is short":   {encode(t, func(e wire.Encoder) { e.Text(""); e.Text("abcd") }), func(d decoder) error { _, err := d.info(storepath.Path{}); return err }},
		"hash that is long":    {encode(t, func(e wire.Encoder) { e.Text(""); e.Text(strings.Repeat("0", 66)) }), func(d decoder) error { _, err := d.info(storepath.Path{}); return err }},
		"hash in another base": {encode(t, func(e wire.Encoder) { e.Text(""); e.Text(strings.Repeat("x", 64)) }), func(d decoder) error { _, err := d.info(storepath.Path{}); return err }},
		"unknown message":      {encode(t, func(e wire.Encoder) { e.Number(1234) }), func(d decoder) error { return d.messages(nil) }},
		"unknown field":        {encode(t, func(e wire.Encoder) { e.Number(msgResult); e.Number(1); e.Number(2); e.Number(1); e.Number(7) }), func(d decoder) error { return d.messages(nil) }},
	} {
		t.Run(rule, func(t *testing.T) {
			var protocol *FaultError
			if err := test.read(decode(test.data)); !errors.As(err, &protocol) {
				t.Error(err)
			}
		})
	}
}

func TestAnnouncedLengthsTakeNoMemory(t *testing.T) {
	data := encode(t, func(e wire.Encoder) { e.Number(maxLogText) })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := decode(data).text(maxLogText)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("no error")
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
}

func TestMessagesAreRead(t *testing.T) {
	var lines []string
	data := encode(t, func(e wire.Encoder) {
		e.Number(msgNext)
		e.Text("\x1b[31mred\x1b[0m\n")
		e.Number(msgStartActivity)
		e.Number(1)
		e.Number(3)
		e.Number(100)
		e.Text("copying")
		e.Number(2)
		e.Number(0)
		e.Number(7)
		e.Number(1)
		e.Text("field")
		e.Number(0)
		e.Number(msgResult)
		e.Number(1)
		e.Number(105)
		e.Number(0)
		e.Number(msgStopActivity)
		e.Number(1)
		e.Number(msgLast)
	})
	if err := decode(data).messages(func(line string) { lines = append(lines, line) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"red", "copying"}, lines); diff != "" {
		t.Error(diff)
	}
}

func encodeError(e wire.Encoder, message string, traces ...string) {
	e.Number(msgError)
	e.Text("Error")
	e.Number(0)
	e.Text("Error")
	e.Text(message)
	e.Number(0)
	e.Number(uint64(len(traces)))
	for _, trace := range traces {
		e.Number(0)
		e.Text(trace)
	}
}

func TestErrorsAreCleaned(t *testing.T) {
	data := encode(t, func(e wire.Encoder) {
		encodeError(e, "\x1b[31;1merror:\x1b[0m path '\x1b[35m/nix/store/x\x1b[0m' is not valid", "\x1b[1mwhile adding")
	})
	err := decode(data).messages(nil)
	var refused *Error
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	want := &Error{Message: "path '/nix/store/x' is not valid", Traces: []string{"while adding"}}
	if diff := cmp.Diff(want, refused); diff != "" || refused.Reason() != ReasonInvalidPath {
		t.Error(diff)
	}
}

func TestReasonsAreToldApart(t *testing.T) {
	for text, want := range map[string]Reason{
		"writing to file: No space left on device":                                     ReasonNoSpace,
		"executing SQLite statement: database or disk is full":                         ReasonNoSpace,
		"cannot add path '/nix/store/x' because it lacks a signature by a trusted key": ReasonUntrusted,
		"hash mismatch importing path '/nix/store/x'":                                  ReasonCorrupt,
		"bad archive: input doesn't look like a Nix archive":                           ReasonCorrupt,
		"path '/nix/store/x' is not valid":                                             ReasonInvalidPath,
		"something else":                                                               ReasonOther,
	} {
		if got := (&Error{Message: text}).Reason(); got != want {
			t.Errorf("%q is taken for %q", text, got)
		}
	}
}

// peer plays a daemon of a given version by hand: what no real one on this machine would send.
func peer(t *testing.T, version protocolVersion, serve func(d decoder, e wire.Encoder)) (*Conn, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	go func() {
		d, e := decoder{bufio.NewReader(theirs)}, wire.Encoder{Writer: bufio.NewWriter(theirs)}
		defer theirs.Close()
		_, _ = d.number()
		_, _ = d.number()
		e.Number(serverMagic)
		e.Number(uint64(version))
		_ = e.Flush()
		if version >= 1<<8|38 {
			features, err := d.texts()
			if err != nil || len(features) != 0 {
				return
			}
			e.Texts([]string{"realisation-with-path-not-hash"})
			_ = e.Flush()
		}
		_, _ = d.number()
		_, _ = d.number()
		e.Text("2.99-peer")
		if version >= 1<<8|35 {
			e.Number(uint64(trustNotTrusted))
		}
		e.Number(msgLast)
		_ = e.Flush()
		serve(d, e)
	}()
	return NewConn(t.Context(), ours, ConnOptions{})
}

func TestHandshakeWithEachVersion(t *testing.T) {
	for version, want := range map[protocolVersion]string{1<<8 | 34: "1.34", 1<<8 | 35: "1.35", 1<<8 | 37: "1.37", 1<<8 | 38: "1.38", 1<<8 | 40: "1.38"} {
		c, err := peer(t, version, func(decoder, wire.Encoder) {})
		if err != nil {
			t.Fatal(version, err)
		}
		known, trusted := c.Trusted()
		if c.ProtocolVersion() != want || c.NixVersion() != "2.99-peer" || known != (version >= 1<<8|35) || trusted {
			t.Errorf("%s: version %s of %s, trust %t %t", version, c.ProtocolVersion(), c.NixVersion(), known, trusted)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	var tooOld *VersionError
	if _, err := peer(t, 1<<8|33, func(decoder, wire.Encoder) {}); !errors.As(err, &tooOld) || tooOld.Hint() == "" {
		t.Error(err)
	}
	if _, err := peer(t, 2<<8|40, func(decoder, wire.Encoder) {}); !errors.As(err, &tooOld) {
		t.Error(err)
	}
}

func TestHandshakeWithSomethingElse(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		_, _ = io.ReadFull(theirs, make([]byte, 16))
		_, _ = theirs.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	}()
	var protocol *FaultError
	if _, err := NewConn(t.Context(), ours, ConnOptions{}); !errors.As(err, &protocol) {
		t.Error(err)
	}
	ours, theirs = net.Pipe()
	go func() {
		_, _ = io.ReadFull(theirs, make([]byte, 16))
		_ = theirs.Close()
	}()
	var refused *RefusedError
	if _, err := NewConn(t.Context(), ours, ConnOptions{}); !errors.As(err, &refused) || refused.Hint() == "" {
		t.Error(err)
	}
}

func TestHandshakeWithASilentPeerEndsWithTheContext(t *testing.T) {
	ours, _ := net.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := NewConn(ctx, ours, ConnOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestProtocolFaultClosesTheConnection(t *testing.T) {
	c, err := peer(t, maxVersion, func(d decoder, e wire.Encoder) {
		_, _ = d.number()
		_, _ = d.text(1000)
		e.Number(msgLast)
		e.Number(3)
		_ = e.Flush()
		_, _ = d.number()
	})
	if err != nil {
		t.Fatal(err)
	}
	path, _ := storepath.Parse(helloText)
	var protocol *FaultError
	if err := c.EnsurePath(t.Context(), path); !errors.As(err, &protocol) {
		t.Error(err)
	}
	var closed *ClosedError
	if err := c.EnsurePath(t.Context(), path); !errors.As(err, &closed) {
		t.Error(err)
	}
}

func TestLostConnectionIsReportedToAllCalls(t *testing.T) {
	release := make(chan struct{})
	c, err := peer(t, maxVersion, func(d decoder, _ wire.Encoder) {
		for range 3 {
			_, _ = d.number()
			_, _ = d.text(1000)
		}
		<-release
	})
	if err != nil {
		t.Fatal(err)
	}
	path, _ := storepath.Parse(helloText)
	results := make(chan error)
	for range 3 {
		go func() { results <- c.EnsurePath(t.Context(), path) }()
	}
	close(release)
	for range 3 {
		var closed *ClosedError
		if err := <-results; !errors.As(err, &closed) {
			t.Error(err)
		}
	}
}

// A daemon may print more than the pipe holds while it is being written to. Both sides would wait for
// each other if replies were read only after the request.
func TestLogsDuringAnUploadDoNotBlock(t *testing.T) {
	c, err := peer(t, maxVersion, func(d decoder, e wire.Encoder) {
		for {
			n, err := d.number()
			if err != nil {
				return
			}
			if n == opAddToStoreNar {
				break
			}
		}
		for range 1000 {
			e.Number(msgNext)
			e.Text(strings.Repeat("log ", 1000))
			_ = e.Flush()
		}
		_, _ = io.Copy(io.Discard, d.r)
	})
	if err != nil {
		t.Fatal(err)
	}
	path, _ := storepath.Parse(helloText)
	ctx, cancel := context.WithCancel(t.Context())
	sent := &endless{limit: 64 << 20, done: cancel}
	if err := c.AddToStoreNar(ctx, storepath.Info{Path: path}, sent, AddOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if sent.limit > 0 {
		t.Errorf("%d bytes were not sent", sent.limit)
	}
}

type endless struct {
	limit int
	done  func()
}

func (r *endless) Read(data []byte) (int, error) {
	if r.limit -= len(data); r.limit <= 0 {
		r.done()
		return 0, io.EOF
	}
	return len(data), nil
}

func FuzzReply(f *testing.F) {
	f.Add(encode(f, func(e wire.Encoder) { encodeError(e, "message", "trace") }))
	f.Add(encode(f, func(e wire.Encoder) {
		e.Number(msgNext)
		e.Text("line")
		e.Number(msgLast)
		e.Flag(true)
		e.Text("")
		e.Text(hex.EncodeToString(make([]byte, 32)))
		e.Texts([]string{helloText})
		e.Number(1)
		e.Number(100)
		e.Flag(true)
		e.Texts([]string{"k:c2ln"})
		e.Text("fixed:r:sha256:0")
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := decode(data)
		if err := d.messages(func(line string) {
			if strings.ContainsRune(line, 0x1b) {
				t.Fatalf("%q holds an escape", line)
			}
		}); err != nil {
			return
		}
		if _, err := d.flag(); err != nil {
			return
		}
		path, _ := storepath.Parse(helloText)
		info, err := d.info(path)
		if err != nil {
			return
		}
		again := encode(t, func(e wire.Encoder) {
			e.Info(info)
		})
		back, err := decode(again).info(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(info, back, cmp.Comparer(func(a, b storepath.Path) bool { return a == b })); diff != "" {
			t.Fatal(diff)
		}
	})
}
