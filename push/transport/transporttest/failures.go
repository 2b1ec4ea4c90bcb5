package transporttest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/push/transport"
)

func failureTests() map[string]func(*testing.T, Env) {
	return map[string]func(*testing.T, Env){
		"a refused port is told":                             refusedPort,
		"a name without address is told":                     noSuchName,
		"an address that never answers is given up":          blackhole,
		"what is no SSH server is told":                      notSSH,
		"a server that closes at once is told":               closesAtOnce,
		"a server that stops in the handshake is given up":   frozenHandshake,
		"a connection dropped in a transfer is an error":     droppedTransfer,
		"a connection dropped while idle is noticed":         droppedIdle,
		"a half-open connection is given up":                 halfOpen,
		"a half-open connection in an upload is given up":    halfOpenUpload,
		"cancelling a dial leaves nothing behind":            cancelDial,
		"cancelling a start leaves the connection as it was": cancelStart,
		"a bad target is refused before anything runs":       badTarget,
	}
}

func unreachable(r *rig, kind transport.UnreachableKind) {
	r.t.Helper()
	err := refused[*transport.UnreachableError](r)
	if err.Kind != kind || err.Host != "web1" {
		r.t.Errorf("kind is %q, want %q: %v", err.Kind, kind, err)
	}
}

func refusedPort(t *testing.T, env Env) {
	r := newRig(t, env)
	r.target.Port = freePort(t, "127.0.0.1")
	unreachable(r, transport.UnreachableRefused)
}

func noSuchName(t *testing.T, env Env) {
	r := newRig(t, env)
	r.target.Address = "no-such-host.invalid" // RFC 2606
	unreachable(r, transport.UnreachableDNS)
}

// listen serves a port that is no SSH server.
func listen(t *testing.T, serve func(net.Conn)) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); work.Wait() })
	return listener.Addr().(*net.TCPAddr).Port
}

func blackhole(t *testing.T, env Env) {
	r := newRig(t, env)
	r.options.Timeouts.Connect = time.Second
	r.target.Port = listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	unreachable(r, transport.UnreachableTimeout)
}

func notSSH(t *testing.T, env Env) {
	r := newRig(t, env)
	r.options.Timeouts.Connect = time.Second
	r.target.Port = listen(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, strings.Repeat("\x1b[31mHTTP/1.1 400 Bad Request\r\n", 3000))
		_, _ = io.Copy(io.Discard, conn)
	})
	refused[*transport.UnreachableError](r)
}

func closesAtOnce(t *testing.T, env Env) {
	r := newRig(t, env)
	r.target.Port = listen(t, func(net.Conn) {})
	unreachable(r, transport.UnreachableClosed)
}

func frozenHandshake(t *testing.T, env Env) {
	r := newRig(t, env)
	r.options.Timeouts.Connect = time.Second
	r.server.Freeze()
	unreachable(r, transport.UnreachableTimeout)
}

func droppedTransfer(t *testing.T, env Env) {
	r := newRig(t, env)
	conn := r.dial()
	channel := start(t, conn, "cat", false)
	go func() {
		if err := noise(channel, 1<<30); err == nil {
			t.Error("a gigabyte was accepted by a dead connection")
		}
	}()
	if _, err := io.CopyN(io.Discard, channel, 8<<20); err != nil {
		t.Fatal(err)
	}
	r.server.Drop()
	err := within(t, func() error { _, err := io.Copy(io.Discard, channel); return err })
	typed[*transport.LostError](t, err)
	typed[*transport.LostError](t, within(t, channel.Wait))
	typed[*transport.LostError](t, within(t, conn.Wait))
	_, err = conn.Start(context.Background(), "true", transport.ChannelOptions{})
	typed[*transport.LostError](t, err)
}

func droppedIdle(t *testing.T, env Env) {
	r := newRig(t, env)
	conn := r.dial()
	r.server.Drop()
	if err := typed[*transport.LostError](t, within(t, conn.Wait)); err.Host != "web1" || err.Address != r.address() {
		t.Errorf("error is %+v", err)
	}
}

func halfOpen(t *testing.T, env Env) {
	r := newRig(t, env)
	conn := r.dial()
	channel := start(t, conn, "cat", false)
	r.server.Freeze()
	begin := time.Now()
	_, err := channel.Read(make([]byte, 1))
	took := time.Since(begin)
	if e := typed[*transport.LostError](t, err); !e.Silent || !e.Timeout() {
		t.Errorf("error is %+v", e)
	}
	// Two requests, a second each, and one more to answer the last.
	if took > 6*time.Second {
		t.Errorf("took %v", took)
	}
	typed[*transport.LostError](t, within(t, conn.Wait))
}

func halfOpenUpload(t *testing.T, env Env) {
	r := newRig(t, env)
	conn := r.dial()
	channel := start(t, conn, "cat >/dev/null", false)
	if err := noise(channel, 4<<20); err != nil {
		t.Fatal(err)
	}
	r.server.Freeze()
	err := within(t, func() error { return noise(channel, 1<<30) })
	typed[*transport.LostError](t, err)
}

func cancelDial(t *testing.T, env Env) {
	r := newRig(t, env)
	connected := make(chan struct{})
	var once sync.Once
	r.target.Port = listen(t, func(conn net.Conn) {
		once.Do(func() { close(connected) })
		_, _ = io.Copy(io.Discard, conn)
	})
	ctx, cancel := context.WithCancel(context.Background())
	dialer := r.dialer()
	go func() { <-connected; cancel() }()
	err := within(t, func() error { _, err := dialer.Dial(ctx, r.target); return err })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err = dialer.Dial(short, r.target)
	if e := typed[*transport.UnreachableError](t, err); e.Kind != transport.UnreachableTimeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func cancelStart(t *testing.T, env Env) {
	conn := newRig(t, env).dial()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := conn.Start(ctx, "exec sleep 100", transport.ChannelOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if r := execute(t, conn, "echo fine", ""); r.err != nil || r.stdout != "fine\n" {
		t.Errorf("afterwards: %q, %v", r.stdout, r.err)
	}
}

func badTarget(t *testing.T, env Env) {
	for _, target := range []transport.Target{
		{Address: "-oProxyCommand=touch x"}, {Address: "a b"}, {Address: "$(id)"}, {Address: ""}, {Address: "x", User: "a;b"}, {Address: "x", User: "-l"},
		{Address: "x", Port: 70000}, {Address: "x", JumpHosts: []string{"-x"}}, {Address: "x", JumpHosts: []string{"a:b"}},
		{Address: "x", HostKeys: []string{"ssh-ed25519"}}, {Address: "x", HostKeys: []string{"ssh-rsa AAAA"}},
	} {
		target.Host = "web1"
		_, err := env.Dialer(transport.Options{}).Dial(context.Background(), target)
		typed[*transport.ConfigError](t, err)
	}
}
