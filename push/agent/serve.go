package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fleet/push/proto"
)

const logName = "agent.log"

// MemoryLimit is from where on an agent's process collects garbage as often as it takes, in bytes, so that it and the processes of its channels stay below
// 128 MB. A transfer holds 96 MiB where all that it may hold is used up. Nearly all of that is bytes without pointers, so collecting them costs little.
const MemoryLimit = 100 << 20

// Serve is the agent of the session in dir, which [Start] made. It returns when no client was attached for the session's
// grace time, when a client has ended the session, and when ctx ends; the session's folder is gone then.
func Serve(ctx context.Context, host *Host, dir string) (err error) {
	config, err := readConfig(dir)
	if err != nil {
		return err
	}
	alive, err := lockNow(filepath.Join(dir, aliveName), os.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("serve %q: %w", dir, err)
	}
	defer alive.Close()
	if config.Detach {
		if err := detach(filepath.Join(dir, logName)); err != nil {
			return err
		}
	}
	listener, err := listen(filepath.Join(dir, socketName), config.Owner)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeSession(dir)) }()
	s := newSession(host, dir, config.Owner)
	defer s.close()
	return serveListener(ctx, listener, config, s)
}

func removeSession(dir string) error {
	err := os.RemoveAll(dir)
	if parent := filepath.Dir(dir); strings.HasPrefix(filepath.Base(parent), privateParent) {
		err = errors.Join(err, os.Remove(parent))
	}
	return err
}

// readConfig takes the session's configuration, token included, off the disk.
func readConfig(dir string) (sessionConfig, error) {
	var config sessionConfig
	name := filepath.Join(dir, configName)
	text, err := readBounded(name, 4<<10)
	if err != nil {
		return config, err
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return config, fmt.Errorf("read %q: %w", name, err)
	}
	return config, os.Remove(name)
}

// detach points the standard streams at the null device and a log, so that nothing of who started us is held.
func detach(log string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	return errors.Join(
		unix.Dup3(int(null.Fd()), 0, 0), unix.Dup3(int(out.Fd()), 1, 0), unix.Dup3(int(out.Fd()), 2, 0))
}

// listen makes the socket, which belongs to the owner alone from the first moment.
func listen(socket string, owner int) (*net.UnixListener, error) {
	// The folder lets nobody list it, and who connects is asked for by its user; the mode is the second lock.
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	err = os.Chmod(socket, 0o600)
	if err == nil && owner != os.Geteuid() {
		err = os.Chown(socket, owner, -1)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// serveListener accepts clients until the session ends, and waits for those that are there.
func serveListener(ctx context.Context, listener *net.UnixListener, config sessionConfig, s *session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := newIdle(config.Grace, cancel)
	defer idle.stop()
	s.ending = idle.end
	stop := context.AfterFunc(ctx, func() {
		listener.Close()
		// A client may wait for what another one has begun.
		s.stop(errSessionOver)
	})
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := listener.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ECONNABORTED) {
				time.Sleep(100 * time.Millisecond) // others will close theirs
				continue
			}
			return fmt.Errorf("accept: %w", err)
		}
		idle.enter()
		clients.Go(func() {
			defer idle.leave()
			serveClient(ctx, conn, config, s)
		})
	}
}

// serveClient answers one client. Its errors are the client's: it sees them itself, or is gone.
func serveClient(ctx context.Context, conn *net.UnixConn, config sessionConfig, s *session) {
	peer, err := peerOf(conn)
	if err != nil || (int(peer.Uid) != config.Owner && peer.Uid != 0) {
		conn.Close()
		return
	}
	_ = proto.Serve(ctx, conn, config.Token, s)
}

// peerOf returns who is at the other end of a Unix socket.
func peerOf(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return peer, errors.Join(err, credErr)
}

// idle ends the session when nobody was attached for the grace time.
type idle struct {
	mu      sync.Mutex
	grace   time.Duration
	clients int
	over    bool
	timer   *time.Timer
	cancel  func()
}

func newIdle(grace time.Duration, cancel func()) *idle {
	i := &idle{grace: grace, cancel: cancel}
	i.timer = time.AfterFunc(grace, i.expire)
	return i
}

func (i *idle) expire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.clients == 0 {
		i.cancel()
	}
}

func (i *idle) enter() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.clients++
	i.timer.Stop()
}

func (i *idle) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.clients--
	switch {
	case i.clients > 0:
	case i.over:
		i.cancel()
	default:
		i.timer.Reset(i.grace)
	}
}

// end lets the session end when its last client has left.
func (i *idle) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}

func (i *idle) stop() { i.timer.Stop() }

// Attach copies between a stream and the agent's socket, until either ends. It knows nothing of what it carries.
func Attach(ctx context.Context, socket string, stdin io.Reader, stdout io.Writer) error {
	var dialer net.Dialer
	dialCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := dialer.DialContext(dialCtx, "unix", socket)
	if err != nil {
		return fmt.Errorf("attach to %q: %w", socket, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	// The reader of stdin may stay blocked for ever; it ends with the process.
	go func() {
		_, err := io.Copy(conn, stdin)
		if err != nil {
			conn.Close()
			return
		}
		conn.(*net.UnixConn).CloseWrite() // a connection that is gone is seen by the other direction
	}()
	if _, err := io.Copy(stdout, conn); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("attach to %q: %w", socket, err)
	}
	return ctx.Err()
}
