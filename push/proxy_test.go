package push

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"fleet/push/transport"
)

// proxy stands between the operator and a host and does to connections what networks do.
type proxy struct {
	listener net.Listener
	target   string
	// cutAfter closes a connection once so many bytes went to the host; each value counts for one connection, and
	// connections after the last one live on.
	mu       sync.Mutex
	cutAfter []int64
	conns    []net.Conn
	refuse   bool
	// stalled keeps what arrives and answers nothing.
	stalled atomic.Bool
	dials   atomic.Int64
}

func newProxy(t *testing.T, h *host, cutAfter ...int64) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: h.address(), cutAfter: cutAfter}
	var done sync.WaitGroup
	done.Go(func() { p.accept(&done) })
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		done.Wait()
	})
	return p
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// through changes a specification so that it goes through the proxy.
func (p *proxy) through(spec HostSpec) HostSpec {
	spec.Target.Port = p.port()
	return spec
}

func (p *proxy) accept(done *sync.WaitGroup) {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.dials.Add(1)
		p.mu.Lock()
		limit := int64(1) << 60
		if len(p.cutAfter) > 0 {
			limit, p.cutAfter = p.cutAfter[0], p.cutAfter[1:]
		}
		refuse := p.refuse
		p.mu.Unlock()
		out, err := net.Dial("tcp", p.target)
		if err != nil || refuse {
			in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		done.Go(func() { p.copy(out, io.LimitReader(in, limit), in) })
		done.Go(func() { p.copy(in, out, out) })
	}
}

// copy moves bytes until either end, and then closes both.
func (p *proxy) copy(to net.Conn, from io.Reader, source net.Conn) {
	defer to.Close()
	defer source.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if p.stalled.Load() {
			continue
		}
		if _, writeErr := to.Write(buf[:n]); writeErr != nil || err != nil {
			return
		}
	}
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
	p.conns = nil
}

// setRefuse makes new connections fail, or work again.
func (p *proxy) setRefuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// damagingDialer changes bytes of what is written to channels: one bit in the middle of a large write, as often as times says.
type damagingDialer struct {
	transport.Dialer
	times atomic.Int64
}

func (d *damagingDialer) Dial(ctx context.Context, target transport.Target) (transport.Conn, error) {
	conn, err := d.Dialer.Dial(ctx, target)
	return &damagingConn{conn, d}, err
}

type damagingConn struct {
	transport.Conn
	d *damagingDialer
}

func (c *damagingConn) Start(ctx context.Context, command string, o transport.ChannelOptions) (transport.Channel, error) {
	ch, err := c.Conn.Start(ctx, command, o)
	if err != nil {
		return nil, err
	}
	return &damagingChannel{Channel: ch, d: c.d}, nil
}

type damagingChannel struct {
	transport.Channel
	d *damagingDialer
	n int
}

func (c *damagingChannel) Write(p []byte) (int, error) {
	if c.n += len(p); len(p) > 10_000 && c.d.times.Add(-1) >= 0 {
		p = append([]byte(nil), p...)
		p[len(p)/2] ^= 1
	}
	return c.Channel.Write(p)
}

// cuttingDialer lets the answer to the first activation.begin after it was armed be lost.
type cuttingDialer struct {
	transport.Dialer
	proxy *proxy
	armed atomic.Bool
}

func (d *cuttingDialer) Dial(ctx context.Context, target transport.Target) (transport.Conn, error) {
	conn, err := d.Dialer.Dial(ctx, target)
	return &cuttingConn{conn, d}, err
}

type cuttingConn struct {
	transport.Conn
	d *cuttingDialer
}

func (c *cuttingConn) Start(ctx context.Context, command string, o transport.ChannelOptions) (transport.Channel, error) {
	ch, err := c.Conn.Start(ctx, command, o)
	if err != nil {
		return nil, err
	}
	return &cuttingChannel{Channel: ch, d: c.d}, nil
}

type cuttingChannel struct {
	transport.Channel
	d     *cuttingDialer
	begun atomic.Bool
}

func (c *cuttingChannel) Write(p []byte) (int, error) {
	if c.d.armed.Load() && bytes.Contains(p, []byte("activation.begin")) {
		c.begun.Store(true)
	}
	return c.Channel.Write(p)
}

func (c *cuttingChannel) Read(p []byte) (int, error) {
	n, err := c.Channel.Read(p)
	if err == nil && c.begun.Load() && c.d.armed.CompareAndSwap(true, false) {
		c.d.proxy.cut()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}
