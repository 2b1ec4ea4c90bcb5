package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
)

const (
	// defaultStateDir is where Nix keeps its database and socket (libstore/globals.cc).
	defaultStateDir = "/nix/var/nix"
	// endTimeout is how long a daemon of ours may take to end by itself once its input has ended.
	endTimeout = 2 * time.Second
)

// Options are the choices of [Open]. The zero value opens the machine's own store.
type Options struct {
	ConnOptions
	// Socket is the daemon's socket. Empty means NIX_DAEMON_SOCKET_PATH, else daemon-socket/socket in NIX_STATE_DIR or /nix/var/nix.
	Socket string
	// Store is the URI of another store, such as a folder that holds one. It is opened with a daemon process of ours.
	Store string
	// Program is the daemon that is started where there is no socket; empty means nix-daemon from PATH.
	Program string
}

// UnavailableError says that there is no way to the machine's store.
type UnavailableError struct {
	// Socket is where the daemon was looked for.
	Socket string
	Err    error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("connect to the Nix daemon at %q: %v", e.Socket, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// Hint says how to mend it.
func (e *UnavailableError) Hint() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return "this user must be able to connect to the socket: add it to the socket's group (on Debian: nix-users), or use root"
	}
	return "start the Nix daemon (systemctl start nix-daemon.socket), or use root"
}

// Open connects to the machine's Nix daemon. Where there is no daemon and the store is ours to write, it starts a daemon for
// this connection alone, which ends with it. ctx bounds the opening only.
func Open(ctx context.Context, opts Options) (*Conn, error) {
	if opts.Store != "" {
		return spawn(ctx, opts)
	}
	socket := opts.Socket
	if socket == "" {
		socket = DefaultSocket()
	}
	c, err := Dial(ctx, socket, opts.ConnOptions)
	absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
	if !absent || ctx.Err() != nil {
		return c, err
	}
	// A nix-daemon that may not write here would go on with a store in the user's home.
	if accessErr := unix.Access(stateDir(), unix.W_OK); accessErr != nil || opts.Socket != "" {
		return nil, err
	}
	return spawn(ctx, opts)
}

// DefaultSocket is where Nix looks for its daemon.
func DefaultSocket() string {
	if socket := os.Getenv("NIX_DAEMON_SOCKET_PATH"); socket != "" {
		return socket
	}
	return filepath.Join(stateDir(), "daemon-socket", "socket")
}

func stateDir() string {
	if dir := os.Getenv("NIX_STATE_DIR"); dir != "" {
		return dir
	}
	return defaultStateDir
}

// Dial connects to a daemon's Unix socket. Where nothing answers there, the error is an [*UnavailableError].
func Dial(ctx context.Context, socket string, opts ConnOptions) (*Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, &UnavailableError{Socket: socket, Err: err}
	}
	return NewConn(ctx, conn, opts)
}

// spawn starts a daemon that speaks on its standard streams.
func spawn(ctx context.Context, opts Options) (*Conn, error) {
	program := opts.Program
	if program == "" {
		program = "nix-daemon"
	}
	argv := []string{program, "--stdio"}
	if opts.Store != "" {
		argv = append(argv, "--store", opts.Store)
	}
	// NIX_REMOTE could name another store, or send the process to the very socket that was not there.
	cmd := run.Cmd{Argv: argv, Env: []string{"NIX_REMOTE="}, PipeStdin: true, PipeStdout: true, Grace: endTimeout}
	processCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	process, err := run.Start(processCtx, cmd)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start a Nix daemon: %w", err)
	}
	return NewConn(ctx, &stdio{process: process, cancel: cancel}, opts.ConnOptions)
}

// stdio is a daemon process as a connection.
type stdio struct {
	process *run.Process
	cancel  context.CancelFunc
	close   sync.Once
	err     error
}

var _ io.ReadWriteCloser = (*stdio)(nil)

func (s *stdio) Read(data []byte) (int, error)  { return s.process.Stdout.Read(data) }
func (s *stdio) Write(data []byte) (int, error) { return s.process.Stdin.Write(data) }

// processError is how a daemon process of ours ended, with what it printed.
type processError struct{ err error }

func (e *processError) Error() string { return e.err.Error() }
func (e *processError) Unwrap() error { return e.err }

// Close ends the process. A failure of the process itself is an error.
func (s *stdio) Close() error {
	s.close.Do(func() {
		_ = s.process.Stdin.Close()
		_ = s.process.Stdout.Close()
		timer := time.AfterFunc(endTimeout, s.cancel)
		defer timer.Stop()
		defer s.cancel()
		err := s.process.Wait()
		var exit *run.ExitError
		if errors.As(err, &exit) {
			s.err = &processError{err: err}
		}
	})
	return s.err
}
