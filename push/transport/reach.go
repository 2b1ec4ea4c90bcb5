package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"fleet/closure/run"
)

// reach opens the byte stream to a hop: through the one before, through its ProxyCommand, or by TCP.
func (d *native) reach(ctx context.Context, h *hop, through *sshConn) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, h.timeouts.Connect)
	defer cancel()
	var conn net.Conn
	var err error
	switch {
	case through != nil:
		if conn, err = through.dial(limited, h.address()); err != nil && limited.Err() == nil {
			return nil, d.throughError(h, through, err)
		}
	case h.proxyCommand != "":
		conn, err = d.startProxy(h)
	default:
		conn, err = d.dialTCP(limited, h)
	}
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, dialContextError(ctx, h)
	}
	var config *ConfigError
	if errors.As(err, &config) {
		return nil, err
	}
	return nil, &UnreachableError{Host: h.host, Address: h.address(), Kind: networkKind(err), Err: err}
}

func (d *native) throughError(h *hop, through *sshConn, err error) error {
	if reason := through.lossWithin(0); reason != nil {
		return reason
	}
	return &UnreachableError{Host: h.host, Address: h.address(), Kind: UnreachableProxy, Err: fmt.Errorf("through %q: %w", through.address, err)}
}

func networkKind(err error) UnreachableKind {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns) && !dns.IsTimeout:
		return UnreachableDNS
	case errors.Is(err, syscall.ECONNREFUSED):
		return UnreachableRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return UnreachableNoRoute
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return UnreachableTimeout
	}
	return UnreachableClosed
}

func (d *native) dialTCP(ctx context.Context, h *hop) (net.Conn, error) {
	dialer := net.Dialer{
		// The SSH keepalives notice sooner; these also end what a crash of ours would leave.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	if h.bindAddress != "" {
		ip := net.ParseIP(h.bindAddress)
		if ip == nil {
			return nil, &ConfigError{Host: h.host, Address: h.address(), Err: fmt.Errorf("BindAddress %q is no IP address", h.bindAddress)}
		}
		dialer.LocalAddr = &net.TCPAddr{IP: ip}
	}
	conn, err := dialer.DialContext(ctx, h.network, h.address())
	var dns *net.DNSError
	if errors.As(err, &dns) && ctx.Err() == nil {
		if addresses := d.systemAddresses(ctx, h.hostname); len(addresses) > 0 {
			conn, err = dialFirst(ctx, &dialer, h, addresses)
		}
	}
	if err != nil {
		return nil, err
	}
	keepQueueShort(conn)
	return conn, nil
}

func dialFirst(ctx context.Context, dialer *net.Dialer, h *hop, addresses []string) (conn net.Conn, err error) {
	for _, address := range addresses {
		if conn, err = dialer.DialContext(ctx, h.network, joinHostPort(address, h.port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// maxAddresses bounds how many addresses of one name are tried.
const maxAddresses = 8

// systemAddresses asks the C library: a static binary's own resolver knows files and DNS, while ssh also
// finds what mDNS, LDAP or systemd's nss modules know.
func (d *native) systemAddresses(ctx context.Context, name string) []string {
	var out bytes.Buffer
	err := d.options.Runner.Run(ctx, run.Cmd{
		Argv: []string{"getent", "ahosts", "--", name}, Stdout: &limitedWriter{to: &out, left: 64 << 10}, Grace: time.Second,
	})
	if err != nil {
		return nil
	}
	var addresses []string
	for line := range strings.Lines(out.String()) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[1] == "STREAM" && len(addresses) < maxAddresses {
			addresses = append(addresses, fields[0])
		}
	}
	return addresses
}

// startProxy runs the ProxyCommand as ssh does, by the user's shell. It gets one end of a socket pair as its standard
// input and output, so that our end has deadlines like any connection.
func (d *native) startProxy(h *hop) (net.Conn, error) {
	command, err := d.resolver.operator.proxyCommand(h.settings)
	if err != nil {
		return nil, &ConfigError{Host: h.host, Address: h.address(), Err: err}
	}
	shell := d.resolver.operator.getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, err
	}
	// The command lives as long as the connection, not as long as the dial.
	ctx, cancel := context.WithCancel(context.Background())
	p := &proxyConn{Conn: conn, cancel: cancel, known: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		err := d.options.Runner.Run(ctx, run.Cmd{Argv: []string{shell, "-c", "exec " + command}, Stdin: theirs, Stdout: theirs, Grace: time.Second})
		if err == nil {
			err = errors.New("it ended")
		}
		p.err = fmt.Errorf("ProxyCommand: %w", err)
		close(p.known)
		// Until now our copy kept the other end open: from here on, reading ends.
		_ = theirs.Close()
	}()
	return p, nil
}

// proxyConn is the connection that a ProxyCommand gives.
type proxyConn struct {
	net.Conn
	cancel context.CancelFunc
	// known is closed once err says why the command ended, ended once nothing of it is left.
	known, ended chan struct{}
	err          error
}

func (p *proxyConn) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	return n, p.explain(err)
}

func (p *proxyConn) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	return n, p.explain(err)
}

// explain tells why the command ended, where it did.
func (p *proxyConn) explain(err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-p.known:
		return fmt.Errorf("%w: %w", p.err, err)
	default:
		return err
	}
}

// Close ends the command and waits for it.
func (p *proxyConn) Close() error {
	err := p.Conn.Close()
	p.cancel()
	<-p.ended
	return err
}

func socketPair() (ours, theirs *os.File, err error) {
	// syscall.ForkLock keeps a process that is started meanwhile from inheriting the pair.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	return os.NewFile(uintptr(fds[0]), "proxy"), os.NewFile(uintptr(fds[1]), "proxy"), nil
}
