package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"fleet/push/transport"
)

// ServerOptions describe an SSH server of a test.
type ServerOptions struct {
	// HostKeys are the server's keys; at least one.
	HostKeys []Key
	// HostCertificate certifies the first of HostKeys.
	HostCertificate *ssh.Certificate
	// AuthorizedKeys may log in, and what UserAuthority certified for the user's name.
	AuthorizedKeys []ssh.PublicKey
	UserAuthority  ssh.PublicKey
	// Banner is shown before the login.
	Banner string
	// Address to listen on; empty means 127.0.0.1.
	Address string
	// MaxSessions is how many commands may run at a time over one connection; 0 means many.
	MaxSessions int
}

// Server is a running SSH server.
type Server interface {
	Host() string
	Port() int
	// User may log in.
	User() string
	// Drop cuts all connections at once, as a crash would.
	Drop()
	// Freeze leaves all connections open and answers nothing any more.
	Freeze()
	Close()
}

// inProcess is a server of x/crypto's; commands run by the local transport.
type inProcess struct {
	listener net.Listener
	config   *ssh.ServerConfig
	host     string
	user     string
	frozen   chan struct{}
	freeze   sync.Once
	stop     context.CancelFunc
	ctx      context.Context
	// maxSessions is the limit of each connection.
	maxSessions int

	mu    sync.Mutex
	conns map[net.Conn]bool
	work  sync.WaitGroup
}

// StartInProcess starts a server in this process; it ends with the test.
func StartInProcess(t testing.TB, options ServerOptions) Server {
	t.Helper()
	address := options.Address
	if address == "" {
		address = "127.0.0.1"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &inProcess{listener: listener, host: address, user: currentUser(t), frozen: make(chan struct{}), conns: map[net.Conn]bool{}, maxSessions: options.MaxSessions}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.config = s.serverConfig(t, options)
	s.work.Go(s.accept)
	t.Cleanup(s.Close)
	return s
}

func (s *inProcess) serverConfig(t testing.TB, options ServerOptions) *ssh.ServerConfig {
	checker := &ssh.CertChecker{
		IsUserAuthority: func(key ssh.PublicKey) bool {
			return options.UserAuthority != nil && equalKeys(options.UserAuthority, key)
		},
		UserKeyFallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			for _, known := range options.AuthorizedKeys {
				if equalKeys(known, key) {
					return nil, nil
				}
			}
			return nil, errors.New("unknown key")
		},
	}
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if meta.User() != s.user {
				return nil, errors.New("unknown user")
			}
			return checker.Authenticate(meta, key)
		},
	}
	if options.Banner != "" {
		config.BannerCallback = func(ssh.ConnMetadata) string { return options.Banner }
	}
	for i, key := range options.HostKeys {
		config.AddHostKey(key.Signer)
		if i == 0 && options.HostCertificate != nil {
			signer, err := ssh.NewCertSigner(options.HostCertificate, key.Signer)
			if err != nil {
				t.Fatal(err)
			}
			config.AddHostKey(signer)
		}
	}
	return config
}

func equalKeys(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

func (s *inProcess) Host() string { return s.host }
func (s *inProcess) Port() int    { return s.listener.Addr().(*net.TCPAddr).Port }
func (s *inProcess) User() string { return s.user }

// Drop implements [Server].
func (s *inProcess) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
}

// Freeze implements [Server].
func (s *inProcess) Freeze() { s.freeze.Do(func() { close(s.frozen) }) }

// Close implements [Server].
func (s *inProcess) Close() {
	s.stop()
	_ = s.listener.Close()
	s.Drop()
	s.work.Wait()
}

func (s *inProcess) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		s.work.Go(func() {
			s.serve(&freezable{Conn: conn, frozen: s.frozen, stop: s.ctx.Done()})
			_ = conn.Close()
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
		})
	}
}

// freezable stops moving bytes once frozen is closed.
type freezable struct {
	net.Conn
	frozen, stop <-chan struct{}
}

func (f *freezable) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	f.wait()
	return n, err
}

func (f *freezable) Write(p []byte) (int, error) {
	f.wait()
	return f.Conn.Write(p)
}

func (f *freezable) wait() {
	select {
	case <-f.frozen:
		<-f.stop
	default:
	}
}

func (s *inProcess) serve(conn net.Conn) {
	server, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	local, err := transport.NewLocal().Dial(s.ctx, transport.Target{Host: "server", Address: transport.AddressLocal})
	if err != nil {
		return
	}
	var sessions sync.WaitGroup
	sessions.Go(func() { ssh.DiscardRequests(requests) })
	var running atomic.Int64
	for channel := range channels {
		switch channel.ChannelType() {
		case "session":
			if running.Add(1) > int64(s.maxSessions) && s.maxSessions > 0 {
				running.Add(-1)
				_ = channel.Reject(ssh.ConnectionFailed, "open failed")
				continue
			}
			sessions.Go(func() {
				defer running.Add(-1)
				s.session(local, channel)
			})
		case "direct-tcpip":
			sessions.Go(func() { s.forward(channel) })
		default:
			_ = channel.Reject(ssh.UnknownChannelType, "not here")
		}
	}
	_ = local.Close()
	_ = server.Close()
	sessions.Wait()
}

func (s *inProcess) forward(request ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(request.ExtraData(), &to); err != nil {
		_ = request.Reject(ssh.ConnectionFailed, "bad request")
		return
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		_ = request.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := request.Accept()
	if err != nil {
		_ = conn.Close()
		return
	}
	var copies sync.WaitGroup
	copies.Go(func() { ssh.DiscardRequests(requests) })
	copies.Go(func() {
		_, _ = io.Copy(channel, conn)
		_ = channel.Close()
	})
	_, _ = io.Copy(conn, channel)
	_ = conn.Close()
	copies.Wait()
}

// session runs one command, as sshd would.
func (s *inProcess) session(local transport.Conn, request ssh.NewChannel) {
	channel, requests, err := request.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	var command transport.Channel
	var work sync.WaitGroup
	pty := false
	for r := range requests {
		ok := false
		switch r.Type {
		case "pty-req":
			pty, ok = true, true
		case "exec":
			var exec struct{ Command string }
			if ssh.Unmarshal(r.Payload, &exec) != nil || command != nil {
				break
			}
			if command, err = local.Start(s.ctx, exec.Command, transport.ChannelOptions{PTY: pty}); err == nil {
				ok = true
				work.Go(func() { pump(channel, command) })
			}
		case "signal":
			if command != nil {
				_ = command.Close()
			}
		}
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
	}
	if command != nil {
		_ = command.Close()
	}
	work.Wait()
}

// pump connects a command with its channel, and tells the client how it ended.
func pump(channel ssh.Channel, command transport.Channel) {
	go func() {
		_, _ = io.Copy(command, channel)
		_ = command.CloseWrite()
	}()
	var outputs sync.WaitGroup
	outputs.Go(func() { _, _ = io.Copy(channel.Stderr(), command.Stderr()) })
	_, _ = io.Copy(channel, command)
	outputs.Wait()
	// A command may close its outputs and go on.
	_ = channel.CloseWrite()
	err := command.Wait()
	var exit *transport.ExitError
	switch {
	case errors.As(err, &exit) && exit.Signal != "":
		_, _ = channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name          string
			Core          bool
			Message, Lang string
		}{Name: exit.Signal}))
	case err == nil || errors.As(err, &exit):
		code := uint32(0)
		if exit != nil {
			code = uint32(exit.Code)
		}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
	}
	_ = channel.Close()
}

func currentUser(t testing.TB) string {
	t.Helper()
	if os.Getuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}
