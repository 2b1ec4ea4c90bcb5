package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

type openSSH struct {
	options  OpenSSHOptions
	resolver *resolver
	answers  *answers
}

// NewOpenSSH returns a dialer that has the system's ssh make the connection, for all that x/crypto cannot do: FIDO key files,
// PKCS#11, GSSAPI, KnownHostsCommand, passwords.
//
// Every Dial starts a master of our own, with its socket in a fresh folder that only we can enter; the user's masters
// (ControlPath) are never used, so every Dial is a new connection. Channels are opened through that socket, in the proxy mode of
// OpenSSH's multiplexing protocol (7.4 or newer): they behave like native ones, down to exit signals. Jump hosts get masters
// of the same kind. All processes end with the connection.
func NewOpenSSH(options OpenSSHOptions) Dialer {
	options = options.withDefaults()
	return &openSSH{options: options, resolver: options.resolver(), answers: newAnswers(options.Prompt)}
}

// Dial implements [Dialer].
func (d *openSSH) Dial(ctx context.Context, target Target) (Conn, error) {
	hops, pins, err := d.resolver.routeAndPins(ctx, target)
	if err != nil {
		return nil, err
	}
	var last *sshConn
	var socket string
	for i := range hops {
		h := newHop(target, hops, i, d.options.Timeouts, pins)
		m := &master{dialer: d, hop: h, via: socket}
		next, err := m.open(ctx)
		if err != nil {
			if last != nil {
				_ = last.Close()
			}
			return nil, h.blame(target.Host, err)
		}
		if before := last; before != nil {
			next.onClose(func() { _ = before.Close() })
		}
		last, socket = next, m.socket()
	}
	return last, nil
}

// master is one ssh process that holds a connection.
type master struct {
	dialer *openSSH
	*hop
	// via is the control socket of the hop before, empty for the first.
	via string

	dir    string
	cancel context.CancelFunc
	// ended is closed once the process is gone; err says how.
	ended chan struct{}
	err   error
}

func (m *master) socket() string       { return filepath.Join(m.dir, "s") }
func (m *master) logFile() string      { return filepath.Join(m.dir, "log") }
func (m *master) knownFile() string    { return filepath.Join(m.dir, "known_hosts") }
func (m *master) path(n string) string { return filepath.Join(m.dir, n) }

// open starts the process, waits until it has logged in, and connects to its socket.
func (m *master) open(ctx context.Context) (*sshConn, error) {
	var err error
	if m.dir, err = socketDir(); err != nil {
		return nil, &ConfigError{Host: m.host, Address: m.address(), Err: err}
	}
	conn, err := m.login(ctx)
	if err != nil {
		m.stop()
		return nil, err
	}
	conn.onClose(m.stop)
	return conn, nil
}

// socketDir makes a folder that only we can enter, and whose path is short: that of a socket may have 104 bytes on
// some systems, and ssh appends 17 while it makes one.
func socketDir() (string, error) {
	parent := os.TempDir()
	if len(parent) > 60 {
		parent = "/tmp"
	}
	return os.MkdirTemp(parent, "fleet-")
}

// stop ends the process and removes what it left.
func (m *master) stop() {
	if m.cancel != nil {
		m.cancel()
		<-m.ended
	}
	_ = os.RemoveAll(m.dir)
}

func (m *master) login(ctx context.Context) (*sshConn, error) {
	known, err := m.prepareKnownHosts()
	if err != nil {
		return nil, &ConfigError{Host: m.host, Address: m.address(), Err: fmt.Errorf("read known hosts: %w", err)}
	}
	// ssh bounds reaching the server and the handshake by itself; this also bounds the login.
	late := make(chan struct{})
	dog := newWatchdog(2*m.timeouts.Connect, func() { close(late) })
	defer dog.stop()
	ready, err := m.start(ctx, dog)
	if err != nil {
		return nil, &ConfigError{Host: m.host, Address: m.address(), Err: err}
	}
	select {
	case <-ready:
	case <-m.ended:
		if ctx.Err() != nil {
			return nil, dialContextError(ctx, m.hop)
		}
		return nil, m.failure(known)
	case <-ctx.Done():
		return nil, dialContextError(ctx, m.hop)
	case <-late:
		return nil, &UnreachableError{Host: m.host, Address: m.address(), Kind: UnreachableTimeout, Err: fmt.Errorf("ssh did not log in within %v", 2*m.timeouts.Connect)}
	}
	conn, err := m.connect(ctx)
	if err != nil {
		return nil, &LostError{Host: m.host, Address: m.address(), Err: err}
	}
	if err := m.identify(conn, known); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// connect opens the control socket.
func (m *master) connect(ctx context.Context) (*sshConn, error) {
	dialer := net.Dialer{Timeout: m.timeouts.Channel}
	stream, err := dialer.DialContext(ctx, "unix", m.socket())
	if err != nil {
		return nil, fmt.Errorf("reach ssh's control socket: %w", err)
	}
	link := &activeConn{Conn: stream}
	_ = stream.SetDeadline(time.Now().Add(m.timeouts.Channel))
	c, channels, requests, err := ssh.NewControlClientConn(link)
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("speak with ssh's control socket: %w", err)
	}
	_ = stream.SetDeadline(time.Time{})
	conn := newSSHConn(m.host, m.address(), m.timeouts, link, ssh.NewClient(c, channels, requests))
	conn.user = m.user
	conn.setExplain(m.explain)
	return conn, nil
}

// explain finds out from the process why the connection has ended.
func (m *master) explain(err error) error {
	timer := time.NewTimer(teardownPatience / 2)
	defer timer.Stop()
	select {
	case <-m.ended:
	case <-timer.C:
		return err
	}
	log := readLog(m.logFile())
	e := &LostError{Host: m.host, Address: m.address(), Err: err}
	if line := log.last("Timeout, server "); line != "" {
		e.Silent, e.Err = true, errors.New(line)
	} else if line := log.lastOf("Connection to ", "client_loop: ", "Connection reset", "Connection closed", "Received disconnect", "packet_write_wait: ", "Read from remote host", "ssh_dispatch_run_fatal: "); line != "" {
		e.Err = errors.New(line)
	}
	return e
}

// start runs ssh. The channel is closed once it has logged in and listens on its socket: it runs LocalCommand then.
func (m *master) start(ctx context.Context, dog *watchdog) (<-chan struct{}, error) {
	const token = "fleet-connected"
	cmd := m.command(token)
	life, cancel := context.WithCancel(context.Background())
	asking := func() {}
	if m.dialer.options.Prompt != nil {
		ask, err := m.answerQuestions(ctx, dog)
		if err != nil {
			cancel()
			return nil, err
		}
		asking = ask
		cmd.Env = append(cmd.Env, "SSH_ASKPASS="+m.path("ask"), "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:fleet")
	}
	ready := make(chan struct{})
	cmd.Stdout = &tokenWriter{token: token, found: ready}
	m.cancel, m.ended = cancel, make(chan struct{})
	go func() {
		defer close(m.ended)
		m.err = m.dialer.options.Runner.Run(life, cmd)
		cancel()
		asking()
	}()
	return ready, nil
}

// tokenWriter closes found once token was written to it.
type tokenWriter struct {
	token string
	seen  string
	found chan struct{}
}

func (w *tokenWriter) Write(p []byte) (int, error) {
	if w.found != nil {
		if w.seen += string(p[:min(len(p), 4096)]); strings.Contains(w.seen, w.token) {
			close(w.found)
			w.found = nil
		}
		w.seen = w.seen[max(0, len(w.seen)-len(w.token)):]
	}
	return len(p), nil
}
