package transporttest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"fleet/push/transport"
)

// Env is one pair of transport and server that the suite runs against.
type Env struct {
	// Dialer makes the transport under test.
	Dialer func(transport.Options) transport.Dialer
	// Server starts a server; the suite decides on its keys.
	Server func(t testing.TB, options ServerOptions) Server
	// OwnBanner says that the transport passes on login banners.
	OwnBanner bool
	// WaitsForAgent says that an agent that never answers ends the dial.
	WaitsForAgent bool
}

// Run runs the conformance suite. Each test has a name that states the rule.
func Run(t *testing.T, env Env) {
	for _, group := range []map[string]func(*testing.T, Env){commandTests(), hostKeyTests(), authTests(), failureTests(), routeTests()} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				countLeaks(t)
				test(t, env)
			})
		}
	}
}

// rig is a server, a user's ssh configuration for it, and a place for files.
type rig struct {
	t       *testing.T
	env     Env
	dir     string
	server  Server
	hostKey Key
	userKey Key
	options transport.Options
	config  []string
	target  transport.Target
}

// newRig starts a server that the user may log in to, and whose key is in the user's known_hosts.
func newRig(t *testing.T, env Env, change ...func(*rig, *ServerOptions)) *rig {
	t.Helper()
	r := &rig{t: t, env: env, dir: t.TempDir(), hostKey: NewKey(t), userKey: NewKey(t)}
	options := ServerOptions{HostKeys: []Key{r.hostKey}, AuthorizedKeys: []ssh.PublicKey{r.userKey.Public()}}
	for _, f := range change {
		f(r, &options)
	}
	r.server = env.Server(t, options)
	r.userKey.Write(t, r.path("id"), "")
	r.setKnownHosts(r.knownLine(r.hostKey))
	r.config = []string{"IdentityFile " + r.path("id"), "IdentitiesOnly yes"}
	r.options = transport.Options{
		ConfigFile: r.path("config"),
		Timeouts:   transport.Timeouts{Connect: 4 * time.Second, Channel: 4 * time.Second, Keepalive: time.Second, KeepaliveCount: 2},
	}
	r.target = transport.Target{Host: "web1", Address: r.server.Host(), Port: r.server.Port(), User: r.server.User()}
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// name is how known_hosts files write the server's name.
func (r *rig) name() string {
	return fmt.Sprintf("[%s]:%d", r.server.Host(), r.server.Port())
}

func (r *rig) knownLine(key Key) string { return r.name() + " " + key.Text() }

func (r *rig) setKnownHosts(lines ...string) {
	r.t.Helper()
	writeFile(r.t, r.path("known_hosts"), strings.Join(lines, "\n")+"\n")
}

func (r *rig) address() string {
	return net.JoinHostPort(r.server.Host(), strconv.Itoa(r.server.Port()))
}

// dialer writes the configuration and makes the transport.
func (r *rig) dialer() transport.Dialer {
	r.t.Helper()
	lines := append([]string{"Host *"}, r.config...)
	lines = append(lines, "IdentityAgent none", "UserKnownHostsFile "+r.path("known_hosts"), "GlobalKnownHostsFile /dev/null")
	writeFile(r.t, r.path("config"), strings.Join(lines, "\n  ")+"\n")
	return r.env.Dialer(r.options)
}

// patience is far more than anything takes, also on a busy machine under the race detector.
const patience = 40 * time.Second

// try dials, and closes the connection with the test.
func (r *rig) try() (transport.Conn, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := r.dialer().Dial(ctx, r.target)
	if err == nil {
		r.t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

func (r *rig) dial() transport.Conn {
	r.t.Helper()
	conn, err := r.try()
	if err != nil {
		r.t.Fatalf("dial: %v%s", err, hintOf(err))
	}
	return conn
}

func hintOf(err error) string {
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		return " [" + hint.Hint() + "]"
	}
	return ""
}

// refused dials, and expects an error of type E.
func refused[E error](r *rig) E {
	r.t.Helper()
	begin := time.Now()
	conn, err := r.try()
	if err == nil {
		_ = conn.Close()
		r.t.Fatal("the dial succeeded")
	}
	if took := time.Since(begin); took > patience/2 {
		r.t.Errorf("the error took %v", took)
	}
	return typed[E](r.t, err)
}

func typed[E error](t *testing.T, err error) E {
	t.Helper()
	var want E
	if !errors.As(err, &want) {
		t.Fatalf("error is %T, want %T: %v", err, want, err)
	}
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) {
		t.Errorf("%T has no hint", err)
	}
	if strings.ContainsAny(err.Error(), "\x1b\n\r") {
		t.Errorf("error text is not one clean line: %q", err)
	}
	return want
}

func start(t *testing.T, conn transport.Conn, command string, pty bool) transport.Channel {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	channel, err := conn.Start(ctx, command, transport.ChannelOptions{PTY: pty})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() { _ = channel.Close() })
	return channel
}

type result struct {
	stdout, stderr string
	err            error
}

// execute runs a command with input to its end.
func execute(t *testing.T, conn transport.Conn, command, input string) result {
	t.Helper()
	channel := start(t, conn, command, false)
	var r result
	var work sync.WaitGroup
	work.Go(func() {
		_, _ = io.WriteString(channel, input)
		_ = channel.CloseWrite()
	})
	work.Go(func() {
		out, _ := io.ReadAll(channel.Stderr())
		r.stderr = string(out)
	})
	out, err := io.ReadAll(channel)
	work.Wait()
	r.stdout, r.err = string(out), err
	if r.err == nil {
		r.err = within(t, channel.Wait)
	}
	return r
}

// within fails the test where f does not return in time.
func within(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("hangs")
		return nil
	}
}

// countLeaks checks, after all cleanups that were registered later, that no goroutine and no child process is left.
func countLeaks(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for {
			after, children := runtime.NumGoroutine(), leftovers()
			if after <= before && len(children) == 0 {
				return
			}
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Errorf("left behind: %d goroutines, processes %v\n%s", after-before, children, stacks)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// leftovers are the command lines of our child processes.
func leftovers() []string {
	var out []string
	for _, pid := range descendants(os.Getpid()) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil {
			out = append(out, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

// noise writes n reproducible bytes that do not compress.
func noise(w io.Writer, n int64) error {
	block := sha256.Sum256([]byte("noise"))
	buffer := make([]byte, 0, 64<<10)
	for len(buffer) < cap(buffer) {
		block = sha256.Sum256(block[:])
		buffer = append(buffer, block[:]...)
	}
	for n > 0 {
		part := buffer[:min(n, int64(len(buffer)))]
		if _, err := w.Write(part); err != nil {
			return err
		}
		n -= int64(len(part))
	}
	return nil
}
