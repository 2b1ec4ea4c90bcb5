package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"fleet/closure/run"
)

// AddressLocal is the [Target] address of this machine.
const AddressLocal = "local"

type local struct{}

// NewLocal returns a dialer for this machine. Commands run by /bin/sh as the user that we are.
func NewLocal() Dialer { return local{} }

// Dial implements [Dialer]. It refuses any address but "local": no other machine must be taken for this one.
func (local) Dial(ctx context.Context, target Target) (Conn, error) {
	if target.Address != AddressLocal {
		return nil, &ConfigError{Host: target.Host, Address: target.Address,
			Err: fmt.Errorf("the local transport reaches the address %q only", AddressLocal), Remedy: "set deploy.transport to native or openssh"}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dial host %q: %w", target.Host, err)
	}
	life, cancel := context.WithCancelCause(context.Background())
	return &localConn{host: target.Host, user: currentOperator().user, life: life, cancel: cancel}, nil
}

// localConn has nothing to lose but its commands.
type localConn struct {
	host, user string
	life       context.Context // ends with Close, and every command with it
	cancel     context.CancelCauseFunc

	mu       sync.Mutex
	closed   bool
	commands sync.WaitGroup
}

var _ Conn = (*localConn)(nil)

// Start implements [Conn].
func (c *localConn) Start(ctx context.Context, command string, opts ChannelOptions) (Channel, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start command on %q: %w", c.host, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("start command on %q: %w", c.host, net.ErrClosed)
	}
	life, cancel := context.WithCancel(c.life)
	ch := &localChannel{host: c.host, cancel: cancel}
	start := ch.startPipes
	if opts.PTY {
		start = ch.startPTY
	}
	if err := start(life, command); err != nil {
		cancel()
		return nil, fmt.Errorf("start command on %q: %w", c.host, err)
	}
	c.commands.Go(func() {
		<-ch.process.Done()
		cancel()
	})
	return ch, nil
}

// Prepare implements [Conn]: nothing here takes a round trip.
func (c *localConn) Prepare(int) {}

// Prepared implements [Conn].
func (c *localConn) Prepared() int { return 0 }

// User implements [Conn].
func (c *localConn) User() string { return c.user }

// HostKey implements [Conn].
func (c *localConn) HostKey() (string, Provenance) { return "", ProvenanceLocal }

// Wait implements [Conn]. It returns after Close, with nil.
func (c *localConn) Wait() error {
	<-c.life.Done()
	return nil
}

// Close implements [Conn]: it ends the commands that still run and waits for them.
func (c *localConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel(errChannelClosed)
	c.commands.Wait()
	return nil
}

// localGrace is how long a command may take to end after SIGTERM.
const localGrace = 2 * time.Second

type localChannel struct {
	host    string
	cancel  context.CancelFunc
	process *run.Process
	stdin   io.WriteCloser
	stdout  io.ReadCloser
	stderr  io.ReadCloser
	// terminal is our end of the terminal, nil without one.
	terminal  *os.File
	closeOnce sync.Once
}

var _ Channel = (*localChannel)(nil)

func (ch *localChannel) startPipes(life context.Context, command string) error {
	process, err := run.Start(life, run.Cmd{
		Argv: []string{"/bin/sh", "-c", command}, PipeStdin: true, PipeStdout: true, PipeStderr: true, NewSession: true, Grace: localGrace,
	})
	if err != nil {
		return err
	}
	ch.process, ch.stdin, ch.stdout, ch.stderr = process, process.Stdin, process.Stdout, process.Stderr
	return nil
}

// startPTY gives the command a terminal. Opening it as the leader of a new session makes it the controlling one.
func (ch *localChannel) startPTY(life context.Context, command string) error {
	master, name, err := openTerminal()
	if err != nil {
		return err
	}
	process, err := run.Start(life, run.Cmd{
		Argv:       []string{"/bin/sh", "-c", `exec <"$1" >"$1" 2>"$1"; exec /bin/sh -c "$2"`, "sh", name, command},
		NewSession: true, Grace: localGrace,
	})
	if err != nil {
		_ = master.Close()
		return err
	}
	ch.process, ch.terminal = process, master
	ch.stdin, ch.stdout = master, &terminalReader{master: master}
	return nil
}

// Read implements [io.Reader].
func (ch *localChannel) Read(p []byte) (int, error) { return ch.stdout.Read(p) }

// Write implements [io.Writer].
func (ch *localChannel) Write(p []byte) (int, error) { return ch.stdin.Write(p) }

// CloseWrite implements [Channel]. On a terminal it types the end-of-file character.
func (ch *localChannel) CloseWrite() error {
	if ch.terminal != nil {
		const endOfFile = "\x04" // VEOF, as openTerminal leaves it
		_, err := io.WriteString(ch.terminal, endOfFile)
		return err
	}
	return ch.stdin.Close()
}

// Stderr implements [Channel].
func (ch *localChannel) Stderr() io.Reader {
	if ch.stderr == nil {
		return strings.NewReader("")
	}
	return ch.stderr
}

// Wait implements [Channel].
func (ch *localChannel) Wait() error {
	err := ch.process.Wait()
	var exit *run.ExitError
	switch {
	case errors.As(err, &exit):
		return &ExitError{Host: ch.host, Address: AddressLocal, Code: exit.Code, Signal: strings.TrimPrefix(exit.Signal, "SIG")}
	case errors.Is(err, context.Canceled):
		return errChannelClosed
	}
	return err
}

// Close implements [Channel]: a command that still runs gets SIGTERM and, after a grace time, SIGKILL.
func (ch *localChannel) Close() error {
	ch.closeOnce.Do(func() {
		ch.cancel()
		_ = ch.stdin.Close()
		<-ch.process.Done()
		_ = ch.stdout.Close()
		if ch.stderr != nil {
			_ = ch.stderr.Close()
		}
	})
	return nil
}

// terminalReader reads a terminal until the command has ended and all that it printed was read.
type terminalReader struct {
	master *os.File
}

// Read takes the error that Linux gives when the last user of a terminal has closed it (EIO) for the end.
func (r *terminalReader) Read(p []byte) (int, error) {
	n, err := r.master.Read(p)
	if n > 0 || err == nil {
		return n, nil
	}
	return 0, io.EOF
}

func (r *terminalReader) Close() error { return r.master.Close() }
