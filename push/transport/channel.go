package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Start implements [Conn].
func (c *sshConn) Start(ctx context.Context, command string, opts ChannelOptions) (Channel, error) {
	if strings.ContainsRune(command, 0) {
		return nil, fmt.Errorf("start command on %q: it holds a NUL", c.host)
	}
	o, err := c.openChannel(ctx)
	if err != nil {
		return nil, err
	}
	ch := &sshChannel{conn: c, channel: o.channel, pty: opts.PTY, ended: make(chan struct{}), closed: make(chan struct{})}
	go ch.serve(o.requests)
	if err := ch.start(ctx, command); err != nil {
		_ = ch.Close()
		return nil, c.startError(err)
	}
	return ch, nil
}

// sshChannel is a command on a host.
type sshChannel struct {
	conn    *sshConn
	channel ssh.Channel
	pty     bool

	// ended is closed once the server will say nothing more about the command. Before that, status is set, and clean
	// where it was not the end of the connection that ended it.
	ended  chan struct{}
	status *ssh.Request
	clean  bool
	// closed is closed by Close.
	closed    chan struct{}
	closeOnce sync.Once
}

var _ Channel = (*sshChannel)(nil)

// serve takes the server's requests: the only ones of use are those about the end (RFC 4254, section 6.10).
func (ch *sshChannel) serve(requests <-chan *ssh.Request) {
	defer func() {
		ch.clean = !ch.conn.link.broken()
		close(ch.ended)
	}()
	for request := range requests {
		if request.Type == "exit-status" || request.Type == "exit-signal" {
			ch.status = request
		}
		if request.WantReply {
			_ = request.Reply(false, nil)
		}
	}
}

// start asks for the terminal and the command, within the limits of ctx and the timeouts.
func (ch *sshChannel) start(ctx context.Context, command string) error {
	result := make(chan error, 1)
	go func() { result <- ch.request(command) }()
	timer := time.NewTimer(ch.conn.timeouts.Channel)
	defer timer.Stop()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("no answer within %v", ch.conn.timeouts.Channel)
	}
}

func (ch *sshChannel) request(command string) error {
	if ch.pty {
		if err := ch.ask("pty-req", ptyRequest()); err != nil {
			return err
		}
	}
	return ch.ask("exec", ssh.Marshal(struct{ Command string }{command}))
}

func (ch *sshChannel) ask(name string, payload []byte) error {
	ok, err := ch.channel.SendRequest(name, true, payload)
	if err == nil && !ok {
		err = fmt.Errorf("the server refused the %q request", name)
	}
	return err
}

// ptyRequest asks for a terminal that repeats nothing and changes no line ends (RFC 4254, sections 6.2 and 8).
func ptyRequest() []byte {
	const opECHO, opONLCR, opEnd = 53, 72, 0
	modes := ssh.Marshal(struct {
		Op1  uint8
		Arg1 uint32
		Op2  uint8
		Arg2 uint32
		End  uint8
	}{opECHO, 0, opONLCR, 0, opEnd})
	return ssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}{"dumb", 80, 24, 0, 0, string(modes)})
}

// Read implements [io.Reader]. It ends with io.EOF only where the command closed its output; a connection that breaks is an error.
func (ch *sshChannel) Read(p []byte) (int, error) { return ch.read(ch.channel, p) }

// settle is how long after the end of the output we look whether the connection has ended with it. A command that closes its
// output and goes on costs this once.
const settle = 100 * time.Millisecond

func (ch *sshChannel) read(from io.Reader, p []byte) (int, error) {
	n, err := from.Read(p)
	if err == nil || n > 0 {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return 0, ch.failure(err)
	}
	if reason := ch.unexpectedEnd(); reason != nil {
		return 0, reason
	}
	return 0, io.EOF
}

// unexpectedEnd tells a command that closed its output from a connection that broke: x/crypto reports both as
// the end of the output.
func (ch *sshChannel) unexpectedEnd() error {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-ch.closed:
		return nil
	case <-ch.ended:
		if ch.clean && ch.status != nil {
			return nil
		}
	case <-timer.C:
		if !ch.conn.link.broken() {
			return nil
		}
	}
	return ch.conn.lossWithin(teardownPatience)
}

func (ch *sshChannel) failure(err error) error {
	if ch.conn.link.broken() {
		return ch.conn.lossOr(err)
	}
	if errors.Is(err, io.EOF) {
		return io.ErrClosedPipe
	}
	return err
}

// Write implements [io.Writer]. io.ErrClosedPipe says that the command takes no more input.
func (ch *sshChannel) Write(p []byte) (int, error) {
	n, err := ch.channel.Write(p)
	if err != nil {
		err = ch.failure(err)
	}
	return n, err
}

// CloseWrite implements [Channel].
func (ch *sshChannel) CloseWrite() error {
	if err := ch.channel.CloseWrite(); err != nil && !errors.Is(err, io.EOF) {
		return ch.failure(err)
	}
	return nil
}

// Stderr implements [Channel].
func (ch *sshChannel) Stderr() io.Reader {
	return readerFunc(func(p []byte) (int, error) { return ch.read(ch.channel.Stderr(), p) })
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Wait implements [Channel].
func (ch *sshChannel) Wait() error {
	select {
	case <-ch.ended:
	case <-ch.closed:
		// What the server said before Close still counts.
		select {
		case <-ch.ended:
		default:
			return errChannelClosed
		}
	}
	if ch.status != nil {
		return ch.exit()
	}
	if reason := ch.conn.lossWithin(teardownPatience); reason != nil {
		return reason
	}
	select {
	case <-ch.closed:
		return errChannelClosed
	default:
		return &LostError{Host: ch.conn.host, Address: ch.conn.address, Err: errors.New("the server closed the channel without an exit status")}
	}
}

// errChannelClosed is what Wait returns after Close.
var errChannelClosed = errors.New("the channel was closed")

func (ch *sshChannel) exit() error {
	e := &ExitError{Host: ch.conn.host, Address: ch.conn.address}
	if ch.status.Type == "exit-signal" {
		var signal struct {
			Name          string
			CoreDumped    bool
			Message, Lang string
		}
		_ = ssh.Unmarshal(ch.status.Payload, &signal)
		e.Code, e.Signal = -1, cleanText(signal.Name, 32)
		if e.Signal == "" {
			e.Signal = "?"
		}
		return e
	}
	var status struct{ Code uint32 }
	if err := ssh.Unmarshal(ch.status.Payload, &status); err != nil {
		return &LostError{Host: e.Host, Address: e.Address, Err: fmt.Errorf("read exit status: %w", err)}
	}
	if status.Code == 0 {
		return nil
	}
	e.Code = int(min(status.Code, 1<<31-1))
	return e
}

// Close implements [Channel].
func (ch *sshChannel) Close() error {
	ch.closeOnce.Do(func() {
		close(ch.closed)
		done := make(chan struct{})
		go func() {
			defer close(done)
			select {
			case <-ch.ended:
			default:
				_, _ = ch.channel.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{"TERM"}))
			}
			_ = ch.channel.Close()
		}()
		// Writing may block on a connection that is about to die; its keepalives will tell.
		timer := time.NewTimer(closeGrace)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
		}
	})
	return nil
}
