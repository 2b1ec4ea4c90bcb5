package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

func writeFile(path string, content []byte) error { return os.WriteFile(path, content, 0o600) }

// TestSilenceEndsAConnection uses a client whose server is gone: the times are exact in a bubble.
func TestSilenceEndsAConnection(t *testing.T) {
	t.Run("in use", func(t *testing.T) { silenceEnds(t, true, 20*time.Second) })
	// sshd says nothing while PAM waits for a login manager that is dead.
	t.Run("before the first channel", func(t *testing.T) { silenceEnds(t, false, 45*time.Second) })
}

func silenceEnds(t *testing.T, used bool, want time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		limits := Timeouts{Keepalive: 5 * time.Second, KeepaliveCount: 3}.withDefaults()
		go answerHandshake(theirs)
		link := &activeConn{Conn: ours}
		c, channels, requests, err := ssh.NewControlClientConn(link)
		if err != nil {
			t.Fatal(err)
		}
		conn := newSSHConn("web", "web:22", limits, link, ssh.NewClient(c, channels, requests))
		conn.used.Store(used)
		go conn.keepalive()
		begin := time.Now()
		err = conn.Wait()
		var lost *LostError
		if !errors.As(err, &lost) || !lost.Silent {
			t.Errorf("error is %v", err)
		}
		if took := time.Since(begin); took != want {
			t.Errorf("noticed after %v", took)
		}
	})
}

// answerHandshake greets a mux client as OpenSSH's PROTOCOL.mux says, and then only listens.
func answerHandshake(conn net.Conn) {
	defer conn.Close()
	_, _ = io.CopyN(io.Discard, conn, 12+12)
	_, _ = conn.Write([]byte("\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x04" + "\x00\x00\x00\x08\x80\x00\x00\x0f\x00\x00\x00\x00"))
	_, _ = io.Copy(io.Discard, conn)
}

func TestAPersonsTimeDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, bitten := time.Now(), make(chan time.Duration, 1)
		dog := newWatchdog(10*time.Second, func() { bitten <- time.Since(begin) })
		defer dog.stop()
		time.Sleep(9 * time.Second)
		dog.human(func() { time.Sleep(time.Hour) })
		if dog.waitedForHuman() != time.Hour {
			t.Errorf("waited %v", dog.waitedForHuman())
		}
		if got := <-bitten; got != time.Hour+19*time.Second {
			t.Errorf("bitten after %v", got)
		}
	})
}

func TestTheLocalTransportIsForThisMachineOnly(t *testing.T) {
	_, err := NewLocal().Dial(context.Background(), Target{Host: "web", Address: "127.0.0.1"})
	var config *ConfigError
	if !errors.As(err, &config) || config.Hint() == "" {
		t.Errorf("error is %v", err)
	}
}

func TestClosingTheLocalConnectionEndsItsCommands(t *testing.T) {
	conn, err := NewLocal().Dial(context.Background(), Target{Host: "web", Address: AddressLocal})
	if err != nil {
		t.Fatal(err)
	}
	channel, err := conn.Start(context.Background(), "echo up; exec sleep 1000", ChannelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(channel, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := channel.Wait(); err == nil {
		t.Error("the command ended well")
	}
	if err := conn.Wait(); err != nil {
		t.Errorf("wait: %v", err)
	}
	if _, err := conn.Start(context.Background(), "true", ChannelOptions{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("start after close: %v", err)
	}
}

func TestAServerThatTakesNoKeysIsToldApart(t *testing.T) {
	a := &authenticator{candidates: []candidate{{name: "key"}}}
	method, err := a.method(&ssh.ClientAuthContext{AllowedMethods: []string{"password", "keyboard-interactive"}})
	if method != nil || err != nil || len(a.offered) != 0 {
		t.Errorf("offers %v (%v)", a.offered, err)
	}
	hint := (&AuthError{Skipped: a.skipped}).Hint()
	if !strings.Contains(hint, "password, keyboard-interactive") || !strings.Contains(hint, "openssh") {
		t.Errorf("hint is %q", hint)
	}
}
