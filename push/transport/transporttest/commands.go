package transporttest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/push/transport"
)

func commandTests() map[string]func(*testing.T, Env) {
	return map[string]func(*testing.T, Env){
		"a login runs commands and tells who it is": func(t *testing.T, env Env) {
			r := newRig(t, env)
			conn := r.dial()
			if got := conn.User(); got != r.server.User() {
				t.Errorf("user is %q", got)
			}
			if key, provenance := conn.HostKey(); key != r.hostKey.Text() || provenance != transport.ProvenanceKnownHosts {
				t.Errorf("host key is %q by %q", key, provenance)
			}
			Commands(t, conn)
		},
		"commands run on channels that were opened ahead":         openedAhead,
		"channels that were opened ahead and not used are closed": unusedAhead,
		"Close ends the connection and Wait returns nil": func(t *testing.T, env Env) {
			conn := newRig(t, env).dial()
			channel := start(t, conn, "exec sleep 60", false)
			if err := conn.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			_ = conn.Close()
			if err := within(t, conn.Wait); err != nil {
				t.Errorf("wait: %v", err)
			}
			if err := within(t, channel.Wait); err == nil {
				t.Error("the command's channel says that it ended well")
			}
			if _, err := conn.Start(context.Background(), "true", transport.ChannelOptions{}); err == nil {
				t.Error("a closed connection starts commands")
			}
		},
	}
}

// few is a connection to a server that lets two commands run at a time.
func few(t *testing.T, env Env) transport.Conn {
	t.Helper()
	return newRig(t, env, func(_ *rig, o *ServerOptions) { o.MaxSessions = 2 }).dial()
}

func openedAhead(t *testing.T, env Env) {
	conn := few(t, env)
	conn.Prepare(4)
	// The server answers in order, so that once this has run all is known.
	if r := execute(t, conn, "true", ""); r.err != nil {
		t.Error(r.err)
	}
	eventually(t, "one channel is left", func() bool { return conn.Prepared() == 1 })
	for range 5 {
		if r := execute(t, conn, "cat; exit 3", "x"); r.stdout != "x" || r.err == nil {
			t.Errorf("%q, %v", r.stdout, r.err)
		}
	}
	if n := conn.Prepared(); n != 0 {
		t.Errorf("%d channels are left", n)
	}
}

func unusedAhead(t *testing.T, env Env) {
	conn := few(t, env)
	conn.Prepare(2)
	conn.Prepare(0)
	eventually(t, "two commands run at a time", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for range 2 {
			channel, err := conn.Start(ctx, "cat", transport.ChannelOptions{})
			if err != nil {
				return false
			}
			defer channel.Close()
		}
		return true
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s", what)
		}
	}
}

// Commands checks what holds for the commands of every connection, a local one too.
func Commands(t *testing.T, conn transport.Conn) {
	for name, test := range map[string]func(*testing.T, transport.Conn){
		"exit codes":                    exitCodes,
		"streams are apart":             streams,
		"big transfers arrive whole":    bigTransfer,
		"many channels at once":         manyChannels,
		"a terminal where asked":        terminal,
		"Close ends a command":          closeEnds,
		"a signal is told":              signals,
		"input to a command that ended": lateInput,
		"output may end early":          earlyEnd,
	} {
		t.Run(name, func(t *testing.T) { test(t, conn) })
	}
}

func exitCodes(t *testing.T, conn transport.Conn) {
	if r := execute(t, conn, "true", ""); r.err != nil {
		t.Errorf("true: %v", r.err)
	}
	for _, code := range []int{1, 3, 127, 255} {
		r := execute(t, conn, fmt.Sprintf("exit %d", code), "")
		var exit *transport.ExitError
		if !errors.As(r.err, &exit) || exit.Code != code || exit.Signal != "" {
			t.Errorf("exit %d: %v", code, r.err)
		}
	}
}

func streams(t *testing.T, conn transport.Conn) {
	words := []string{"", "plain", "two words", "it's", `"$HOME" \ * ; |`, "new\nline", "-n", "ünï"}
	r := execute(t, conn, "cat; "+transport.Quote("/bin/sh", "-c", `printf '%s|' "$@"; echo oops >&2; exit 7`, "sh")+" "+transport.Quote(words...), "in\n")
	if want := "in\n" + strings.Join(words, "|") + "|"; r.stdout != want {
		t.Errorf("stdout is %q, want %q", r.stdout, want)
	}
	if r.stderr != "oops\n" {
		t.Errorf("stderr is %q", r.stderr)
	}
	var exit *transport.ExitError
	if !errors.As(r.err, &exit) || exit.Code != 7 {
		t.Errorf("error is %v", r.err)
	}
}

func bigTransfer(t *testing.T, conn transport.Conn) {
	const size = 64 << 20
	channel := start(t, conn, "tee /dev/stderr", false)
	sent := make(chan error, 1)
	want := sha256.New()
	go func() {
		err := noise(io.MultiWriter(channel, want), size)
		if err == nil {
			err = channel.CloseWrite()
		}
		sent <- err
	}()
	var work sync.WaitGroup
	back, side := sha256.New(), sha256.New()
	work.Go(func() { _, _ = io.Copy(side, channel.Stderr()) })
	n, err := io.Copy(back, channel)
	work.Wait()
	if err := errors.Join(err, <-sent, within(t, channel.Wait)); err != nil {
		t.Fatal(err)
	}
	if n != size || string(back.Sum(nil)) != string(want.Sum(nil)) || string(side.Sum(nil)) != string(want.Sum(nil)) {
		t.Errorf("%d bytes came back, or other ones", n)
	}
}

func manyChannels(t *testing.T, conn transport.Conn) {
	var work sync.WaitGroup
	for i := range 24 {
		work.Go(func() {
			if r := execute(t, conn, fmt.Sprintf("cat; echo %d", i), "x"); r.err != nil || r.stdout != fmt.Sprintf("x%d\n", i) {
				t.Errorf("channel %d: %q, %v", i, r.stdout, r.err)
			}
		})
	}
	work.Wait()
}

func terminal(t *testing.T, conn transport.Conn) {
	channel := start(t, conn, "test -t 0 && test -t 1 && test -t 2 && tty >/dev/null && read line && echo \"got $line\" >/dev/tty; exit 5", true)
	if _, err := io.WriteString(channel, "word\n"); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(channel)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(strings.ReplaceAll(string(out), "\r", "")); !strings.HasSuffix(got, "got word") {
		t.Errorf("output is %q", got)
	}
	if rest, _ := io.ReadAll(channel.Stderr()); len(rest) > 0 {
		t.Errorf("stderr has %q", rest)
	}
	var exit *transport.ExitError
	if err := within(t, channel.Wait); !errors.As(err, &exit) || exit.Code != 5 {
		t.Errorf("wait: %v", err)
	}
}

func closeEnds(t *testing.T, conn transport.Conn) {
	channel := start(t, conn, "echo $$; exec cat", false)
	buffer := make([]byte, 64)
	n, err := channel.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(buffer[:n]))
	if err := channel.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, channel.Wait); err == nil {
		t.Error("wait says that the command ended well")
	}
	probe := execute(t, conn, "for i in $(seq 50); do kill -0 "+pid+" 2>/dev/null || exit 0; sleep 0.1; done; exit 1", "")
	if probe.err != nil {
		t.Errorf("the command still runs: %v", probe.err)
	}
}

func signals(t *testing.T, conn transport.Conn) {
	r := execute(t, conn, "kill -KILL $$", "")
	var exit *transport.ExitError
	if !errors.As(r.err, &exit) || exit.Signal != "KILL" || exit.Code != -1 {
		t.Errorf("error is %v", r.err)
	}
}

func lateInput(t *testing.T, conn transport.Conn) {
	channel := start(t, conn, "exit 4", false)
	err := within(t, func() error { return noise(channel, 16<<20) })
	if err == nil {
		t.Error("16 MiB were accepted")
	}
	var lost *transport.LostError
	if errors.As(err, &lost) {
		t.Errorf("taken for a lost connection: %v", err)
	}
	_, _ = io.Copy(io.Discard, channel)
	var exit *transport.ExitError
	if err := within(t, channel.Wait); !errors.As(err, &exit) || exit.Code != 4 {
		t.Errorf("wait: %v", err)
	}
}

func earlyEnd(t *testing.T, conn transport.Conn) {
	channel := start(t, conn, "echo out; exec >&- 2>&-; read line; exit 6", false)
	go func() { _, _ = io.Copy(io.Discard, channel.Stderr()) }()
	var out []byte
	if err := within(t, func() (err error) { out, err = io.ReadAll(channel); return err }); err != nil || string(out) != "out\n" {
		t.Errorf("read %q: %v", out, err)
	}
	if _, err := io.WriteString(channel, "go on\n"); err != nil {
		t.Errorf("write: %v", err)
	}
	var exit *transport.ExitError
	if err := within(t, channel.Wait); !errors.As(err, &exit) || exit.Code != 6 {
		t.Errorf("wait: %v", err)
	}
}
