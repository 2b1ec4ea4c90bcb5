package push

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet/closure/storepath"
	"fleet/push/proto"
	"fleet/push/transport"
)

func TestPushGoesOnAfterBrokenConnections(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 12, 200_000)
	for _, user := range []string{"root", "free"} {
		t.Run(user, func(t *testing.T) {
			h := l.host(t, hostOptions{})
			// The helper goes there first, so that the cuts fall into the push.
			push(t, connect(t, l.connector(), h.spec(user)), l.helper)
			p := newProxy(t, h, 700_000, 500_000, 1_000_000)
			r := &recorder{}
			c := l.connector()
			c.Reporter = r
			result := push(t, connect(t, c, p.through(h.spec(user))), root)
			// With a connection the last acknowledgements are lost.
			if result.Paths < 8 || p.dials.Load() < 3 {
				t.Errorf("%+v over %d connections", result, p.dials.Load())
			}
			if n := r.count("starting another"); n != 0 {
				t.Errorf("%d agents more than needed", n)
			}
			h.sh(t, "nix-store --verify --check-contents && nix-store --check-validity $(nix-store -qR "+root.String()+") && pgrep -c fleet-helper")
		})
	}
}

func TestPushStartsAnAgentAnewWhereItHasDied(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	c := l.connector()
	p := &typist{answers: []string{"right"}}
	c.Password = p.ask
	r := &recorder{}
	c.Reporter = r
	s := connect(t, c, h.spec("sudoer"))
	first := s.current.agent.socket
	root := l.chain(t, 6, 50_000)
	c.Source = &hookSource{Source: l.store, open: func(n int) error {
		if n == 3 {
			h.sh(t, "pkill -KILL fleet-helper")
		}
		return nil
	}}
	push(t, s, root)
	if s.current.agent.socket == first || r.count("starting another") != 1 {
		t.Error("the agent was not started anew")
	}
	if len(p.prompts) != 1 {
		t.Errorf("a person was asked %d times", len(p.prompts))
	}
}

func TestPushGivesUpOnAHostThatStaysAway(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	p := newProxy(t, h)
	c := l.connector()
	c.Retry = Retry{Tries: 3, First: 10 * time.Millisecond, Max: 20 * time.Millisecond}
	s := connect(t, c, p.through(h.spec("root")))
	p.setRefuse(true)
	p.cut()
	_, err := s.Push(t.Context(), PushRequest{Roots: []storepath.Path{l.helper}})
	var lost *LostError
	if !errors.As(err, &lost) || lost.Tries != 3 {
		t.Fatalf("error %v", err)
	}
	p.setRefuse(false)
	if _, err := s.Refresh(t.Context()); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

func TestPushOverALinkThatFallsSilent(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	p := newProxy(t, h)
	c := l.connector()
	c.Dialers["native"] = transport.NewNative(transport.Options{
		ConfigFile: l.config, Timeouts: transport.Timeouts{Connect: time.Second, Keepalive: 200 * time.Millisecond, KeepaliveCount: 3},
	})
	s := connect(t, c, p.through(h.spec("root")))
	p.stalled.Store(true)
	time.AfterFunc(2*time.Second, func() { p.stalled.Store(false) })
	push(t, s, l.chain(t, 3, 1000))
	if p.dials.Load() < 2 {
		t.Error("the silent connection was used on")
	}
}

func TestPushDoesNotHangWhereEveryConnectionBreaks(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 2, 400_000)
	h := l.host(t, hostOptions{})
	push(t, connect(t, l.connector(), h.spec("root")), l.helper)
	cuts := make([]int64, 50)
	for i := range cuts {
		cuts[i] = 200_000
	}
	p := newProxy(t, h, cuts...)
	c := l.connector()
	c.Retry = Retry{First: time.Millisecond, Max: time.Millisecond}
	s := connect(t, c, p.through(h.spec("root")))
	_, err := s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}})
	var lost *LostError
	if !errors.As(err, &lost) || p.dials.Load() > 10 {
		t.Errorf("error %v after %d connections", err, p.dials.Load())
	}
}

func TestDamageOnTheWire(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	push(t, connect(t, l.connector(), h.spec("root")), l.helper)
	c := l.connector()
	r := &recorder{}
	c.Reporter = r
	d := &damagingDialer{Dialer: c.Dialers["native"]}
	c.Dialers["native"] = d
	s := connect(t, c, h.spec("root"))
	t.Run("once is mended", func(t *testing.T) {
		d.times.Store(1)
		push(t, s, l.chain(t, 3, 300_000))
		if n := r.count("arrived damaged"); n != 1 {
			t.Errorf("%d warnings", n)
		}
	})
	t.Run("always is an error that names the path", func(t *testing.T) {
		d.times.Store(1 << 30)
		root := l.chain(t, 3, 300_000)
		_, err := s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}, RootName: "test-damage"})
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Host != "web" || !strings.Contains(corrupt.Path.Name(), "chain") {
			t.Errorf("error %v", err)
		}
		d.times.Store(0)
		h.sh(t, "nix-store --verify --check-contents; test ! -e /nix/var/nix/gcroots/fleet/test-damage")
	})
}

// toplevel adds a system whose activation is a script.
func (l *lab) toplevel(t *testing.T, script string) storepath.Path {
	t.Helper()
	dir := filepath.Join(l.dir, "toplevel")
	os.RemoveAll(dir)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "nixos-version"), "test", 0o644)
	write(t, filepath.Join(dir, "bin", "switch-to-configuration"), "#!/bin/sh\n"+script, 0o755)
	return l.add(t, dir)
}

// slowScript prints 30 numbered lines within three seconds.
const slowScript = `i=0
while [ $i -lt 30 ]; do i=$((i + 1)); printf 'line %s \033[31mred\033[0m\n' $i; sleep 0.1; done
ln -sfn "$(dirname "$(dirname "$(readlink -f "$0")")")" /run/current-system
`

func begin(t *testing.T, s *Session, toplevel storepath.Path) string {
	t.Helper()
	txn, err := s.Begin(t.Context(), proto.BeginRequest{
		Action: proto.ActionTest, Toplevel: toplevel.String(), Owner: "me@here", Guard: &proto.GuardPolicy{SelfConfirm: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return txn
}

func TestAttachSurvivesBrokenConnections(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	p := newProxy(t, h)
	s := connect(t, l.connector(), p.through(h.spec("free")))
	toplevel := l.toplevel(t, slowScript)
	push(t, s, toplevel)
	txn := begin(t, s, toplevel)
	var log strings.Builder
	cuts := 0
	status, err := s.Attach(t.Context(), txn, func(e proto.TxnEvent) {
		log.WriteString(e.Log)
		if (cuts == 0 && strings.Contains(log.String(), "line 5 ")) || (cuts == 1 && strings.Contains(log.String(), "line 15 ")) {
			cuts++
			p.cut()
		}
	})
	if err != nil || status.State != proto.TxnTested || status.Current != toplevel.String() {
		t.Fatalf("%+v, %v", status, err)
	}
	var want strings.Builder
	for i := range 30 {
		fmt.Fprintf(&want, "line %d red\n", i+1)
	}
	if !strings.Contains(log.String(), want.String()) || p.dials.Load() < 3 {
		t.Errorf("log after %d connections: %q", p.dials.Load(), log.String())
	}
}

func TestActivationIsLockedAgainstOthers(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	s, other := connect(t, l.connector(), h.spec("root")), connect(t, l.connector(), h.spec("free"))
	toplevel := l.toplevel(t, slowScript)
	push(t, s, toplevel)
	txn := begin(t, s, toplevel)
	_, err := other.Begin(t.Context(), proto.BeginRequest{Action: proto.ActionTest, Toplevel: toplevel.String(), Owner: "you@there"})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.Holder == nil || locked.Holder.Owner != "me@here" || locked.Holder.Txn != txn {
		t.Errorf("second begin: %v", err)
	}
	if info, err := other.Refresh(t.Context()); err != nil || info.Lock == nil {
		t.Errorf("info: %+v, %v", info, err)
	}
	if _, err := s.Attach(t.Context(), txn, nil); err != nil {
		t.Error(err)
	}
}

func TestDetachLeavesTheActivationRunning(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	c := l.connector()
	s, err := c.Connect(t.Context(), h.spec("free"))
	if err != nil {
		t.Fatal(err)
	}
	toplevel := l.toplevel(t, slowScript)
	push(t, s, toplevel)
	txn := begin(t, s, toplevel)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = s.Attach(ctx, txn, func(e proto.TxnEvent) {
		if e.Log != "" {
			cancel()
		}
	})
	var detached *DetachedError
	if !errors.As(err, &detached) || detached.Txn != txn || !strings.Contains(detached.Hint(), txn) || !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := connect(t, c, h.spec("free"))
	status, err := again.Attach(t.Context(), txn, nil)
	if err != nil || status.State != proto.TxnTested {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestBeginIsNotDoneTwice(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	p := newProxy(t, h)
	c := l.connector()
	d := &cuttingDialer{Dialer: c.Dialers["native"], proxy: p}
	c.Dialers["native"] = d
	s := connect(t, c, p.through(h.spec("root")))
	toplevel := l.toplevel(t, slowScript)
	push(t, s, toplevel)
	d.armed.Store(true)
	txn := begin(t, s, toplevel)
	if d.armed.Load() {
		t.Fatal("the connection was not cut")
	}
	if status, err := s.Attach(t.Context(), txn, nil); err != nil || status.State != proto.TxnTested {
		t.Errorf("%+v, %v", status, err)
	}
	if all, err := s.Transactions(t.Context()); err != nil || len(all) != 1 || all[0].Txn != txn {
		t.Errorf("transactions %+v, %v", all, err)
	}
}
