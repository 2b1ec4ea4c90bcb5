package proto

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
)

// BenchmarkStream measures one stream over a Unix socket, which is what an agent has.
func BenchmarkStream(b *testing.B) {
	listener, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_ = Serve(context.Background(), conn, testToken, testHandlerSink())
		}
	}()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	c, err := NewClient(b.Context(), conn, Hello{Token: testToken})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	s, err := c.Open(b.Context(), "sink", nil)
	if err != nil {
		b.Fatal(err)
	}
	piece := make([]byte, 256<<10)
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		if _, err := s.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
}

func testHandlerSink() Handler {
	return HandlerFunc(func(_ context.Context, req *Request) (any, error) {
		_, err := io.Copy(io.Discard, req.Stream)
		return nil, err
	})
}
