package proto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func FuzzFrameReader(f *testing.F) {
	var seed bytes.Buffer
	writeFrame(&seed, frameData, 1, []byte("data"))
	writeFrame(&seed, framePing, 0, nil)
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := frameReader{r: bytes.NewReader(raw), spare: new(spareFrames)}
		var out bytes.Buffer
		for {
			fr, err := r.next()
			if err != nil {
				break
			}
			if len(fr.payload) > MaxFrame {
				t.Fatal("frame above the limit")
			}
			writeFrame(&out, fr.typ, fr.stream, fr.payload)
		}
		if !bytes.HasPrefix(raw, out.Bytes()) {
			t.Fatal("what was read does not write back")
		}
	})
}

func seeds(f *testing.F) {
	var b bytes.Buffer
	for i, fr := range []frame{
		{frameOpen, 1, []byte(`{"method":"echo"}`)}, {frameData, 1, []byte("some data")}, {frameCredit, 1, []byte{0, 0, 0, 9}},
		{frameEOF, 1, nil}, {frameResult, 1, []byte(`{}`)}, {frameError, 1, []byte(`{"code":"internal"}`)},
		{frameMore, 2, []byte(`{"method":`)}, {frameOpen, 2, []byte(`"sum"}`)}, {frameCancel, 2, nil}, {frameBye, 0, nil},
	} {
		writeFrame(&b, fr.typ, fr.stream, fr.payload)
		if i%3 == 0 {
			f.Add(b.Bytes())
		}
	}
	f.Add(b.Bytes())
}

// FuzzAgent lets a client say anything after its hello: the agent must end, without a panic.
func FuzzAgent(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in bytes.Buffer
		writeHello(&in, Hello{Token: testToken})
		in.Write(raw)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = Serve(ctx, &script{Reader: &in}, testToken, testHandler())
		if ctx.Err() != nil {
			t.Fatal("the agent did not end")
		}
	})
}

// FuzzClient lets an agent say anything after its hello, while a client has streams open.
func FuzzClient(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in bytes.Buffer
		writeHello(&in, Hello{})
		in.Write(raw)
		gate := &gated{r: &in, free: helloSize(t), opened: make(chan struct{})}
		c, err := NewClient(context.Background(), gate, Hello{Token: testToken})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		one, err1 := c.Open(context.Background(), "one", nil)
		two, err2 := c.Open(context.Background(), "two", nil)
		close(gate.opened)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, one)
		two.Result(nil)
		<-c.Done()
	})
}

func helloSize(t *testing.T) int {
	var b bytes.Buffer
	if err := writeHello(&b, Hello{}); err != nil {
		t.Fatal(err)
	}
	return b.Len()
}

// gated gives its first bytes at once and the rest when opened is closed.
type gated struct {
	script
	r      io.Reader
	free   int
	opened chan struct{}
}

func (g *gated) Read(p []byte) (int, error) {
	if g.free > 0 {
		n, err := g.r.Read(p[:min(len(p), g.free)])
		g.free -= n
		return n, err
	}
	<-g.opened
	return g.r.Read(p)
}

func FuzzImportReader(f *testing.F) {
	f.Add(importBytes(f, 3, pathInfo("a", 10), pathInfo("b", 100)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := NewImportReader(bytes.NewReader(raw))
		if err != nil {
			return
		}
		defer r.Close()
		for {
			info, nar, err := r.Next()
			if err != nil {
				return
			}
			n, err := io.Copy(io.Discard, io.LimitReader(nar, 1<<20))
			if err == nil && n < 1<<20 && uint64(n) != info.NarSize {
				t.Fatalf("%d bytes of %d without an error", n, info.NarSize)
			}
			if n == 1<<20 {
				return // a bomb is stopped by the importer, which knows the size
			}
		}
	})
}

// FuzzImportRoundTrip checks that what is written is read, whatever the contents.
func FuzzImportRoundTrip(f *testing.F) {
	f.Add("/nix/store/x", []byte("contents"), "ref")
	f.Fuzz(func(t *testing.T, path string, nar []byte, ref string) {
		if path == "" || len(nar) == 0 || !utf8Only(path, ref) {
			t.Skip()
		}
		want := pathInfo(path, uint64(len(nar)))
		want.References = []string{ref}
		var b bytes.Buffer
		w, err := NewImportWriter(&b, 3)
		if err != nil {
			t.Fatal(err)
		}
		nw, err := w.Begin(want)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nw.Write(nar); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := NewImportReader(&b)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, body, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		data, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(data, nar) {
			t.Fatalf("%v", err)
		}
		if _, _, err := r.Next(); err != io.EOF {
			t.Fatalf("end: %v", err)
		}
	})
}
