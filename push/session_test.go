package push

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/proto"
	"fleet/push/transport"
)

// chainExpression builds files, each of which refers to the one before it, out of the files of a folder.
const chainExpression = `{ dir, last }:
let
  link = n: derivation {
    name = "chain-${toString n}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    before = if n == 0 then null else link (n - 1);
    args = [ "-c" "{ echo $before; cat ${builtins.path { path = /. + "${dir}/${toString n}"; name = "data"; }}; } >$out" ];
  };
in link last`

// chain adds n paths of incompressible contents to the operator's store, each of which refers to the one before it, and returns the last.
func (l *lab) chain(t *testing.T, n, size int) storepath.Path {
	t.Helper()
	dir, err := os.MkdirTemp(l.dir, "chain-")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		noise := make([]byte, size)
		for k := range noise {
			noise[k] = byte(rand.Uint32())
		}
		write(t, filepath.Join(dir, strconv.Itoa(i)), string(noise), 0o644)
	}
	out := command(t, "nix-build", "--option", "sandbox", "false", "--option", "build-users-group", "", "--option", "substitute", "false",
		"-o", dir+".root", "-E", fmt.Sprintf("(%s) { dir = %q; last = %d; }", chainExpression, dir, n-1))
	path, err := storepath.Parse(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// connect opens a session that ends with the test.
func connect(t *testing.T, c *Connector, spec HostSpec) *Session {
	t.Helper()
	s, err := c.Connect(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func push(t *testing.T, s *Session, root storepath.Path) PushResult {
	t.Helper()
	result, err := s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}, RootName: "test-push"})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestPushMakesAClosureValidAndRooted(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 20, 10_000)
	for _, user := range []string{"root", "free"} {
		t.Run(user, func(t *testing.T) {
			h := l.host(t, hostOptions{})
			c := l.connector()
			r := &recorder{}
			c.Reporter = r
			s := connect(t, c, h.spec(user))
			if info := s.Info(); !info.Root || !info.Trusted || info.System != system() {
				t.Errorf("info: %+v", info)
			}
			first := push(t, s, root)
			if first.Paths < 20 || first.NarBytes < 200_000 || first.WireBytes < 200_000 {
				t.Errorf("first push: %+v", first)
			}
			if second := push(t, s, root); second.Paths != 0 || second.NarBytes != 0 {
				t.Errorf("second push: %+v", second)
			}
			h.sh(t, "nix-store --verify --check-contents && nix-collect-garbage && nix-store --check-validity $(nix-store -qR "+root.String()+")")
			r.checkProgress(t, first.NarBytes)
		})
	}
}

// checkProgress checks that progress only grows and ends at what was moved.
func (r *recorder) checkProgress(t *testing.T, want uint64) {
	t.Helper()
	var last uint64
	for _, e := range r.events {
		if e.Unit != "bytes" {
			continue
		}
		if e.Done < last || e.Done > e.Total {
			t.Errorf("progress %d after %d, of %d", e.Done, last, e.Total)
		}
		last = e.Done
	}
	if last != want {
		t.Errorf("progress ends at %d, want %d", last, want)
	}
}

func TestSessionLeavesNoProcessOnTheHost(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	c := l.connector()
	s, err := c.Connect(t.Context(), h.spec("free"))
	if err != nil {
		t.Fatal(err)
	}
	push(t, s, l.chain(t, 2, 100))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	awaitOutput(t, h, "pgrep -l fleet; pgrep -l -u free; ls -A /run/fleet 2>/dev/null | grep -v lock; true", "")
	if _, err := s.Refresh(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestCancelDuringAPushLeavesNoProcessOnTheHost(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	c := l.connector()
	s, err := c.Connect(ctx, h.spec("free"))
	if err != nil {
		t.Fatal(err)
	}
	c.Source = &hookSource{Source: l.store, open: func(n int) error {
		if n == 5 {
			cancel()
		}
		return nil
	}}
	if _, err := s.Push(ctx, PushRequest{Roots: []storepath.Path{l.chain(t, 10, 1000)}}); !errors.Is(err, context.Canceled) {
		t.Errorf("push: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	awaitOutput(t, h, "pgrep -l fleet; pgrep -l -u free; true", "")
}

// hookSource calls open before the n-th view is opened, from 0.
type hookSource struct {
	closure.Source
	open func(n int) error

	mu sync.Mutex
	n  int
}

func (h *hookSource) View(ctx context.Context, path storepath.Path) (closure.View, error) {
	h.mu.Lock()
	n := h.n
	h.n++
	h.mu.Unlock()
	if err := h.open(n); err != nil {
		return nil, err
	}
	return h.Source.View(ctx, path)
}

// countingDialer counts connections.
type countingDialer struct {
	transport.Dialer
	n int
}

func (d *countingDialer) Dial(ctx context.Context, target transport.Target) (transport.Conn, error) {
	d.n++
	return d.Dialer.Dial(ctx, target)
}

func TestSecondSessionSharesNothing(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	a, b := connect(t, l.connector(), h.spec("free")), connect(t, l.connector(), h.spec("free"))
	if a.current.agent.socket == b.current.agent.socket || a.current.agent.token == b.current.agent.token {
		t.Error("two sessions have one agent")
	}
	forged := &link{s: b, conn: b.current.conn, agent: b.current.agent}
	forged.agent.token = a.current.agent.token
	if _, err := forged.attach(t.Context()); proto.CodeOf(err) != proto.CodeToken {
		t.Errorf("with another session's token: %v", err)
	}
	second, err := a.current.attach(t.Context())
	if err != nil {
		t.Fatalf("second attach: %v", err)
	}
	defer second.Close()
	if err := second.Call(t.Context(), proto.MethodInfo, nil, nil); err != nil {
		t.Error(err)
	}
}

func TestSessionOfAnotherUserCannotAttach(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	s := connect(t, l.connector(), h.spec("free"))
	conn, err := l.dialer().Dial(t.Context(), h.spec("plain").Target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other := &link{s: s, conn: conn, agent: s.current.agent}
	if client, err := other.attach(t.Context()); err == nil {
		client.Close()
		t.Error("another user attached with a stolen token")
	}
}

func TestPushIntoAFullStore(t *testing.T) {
	l := newLab(t)
	stat, err := os.Stat(filepath.Join(l.helper.String(), "bin", "fleet-helper"))
	if err != nil {
		t.Fatal(err)
	}
	// Nix keeps 8 MiB of the store for its database.
	h := l.host(t, hostOptions{size: strconv.FormatInt(stat.Size()/1024+16*1024, 10) + "k"})
	r := &recorder{}
	c := l.connector()
	c.Reporter = r
	s := connect(t, c, h.spec("root"))
	root := l.chain(t, 4, 5_000_000)
	_, err = s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}, RootName: "test-push"})
	var full *StoreFullError
	if !errors.As(err, &full) || full.Need < 20_000_000 || full.Free == 0 || full.Free > 16<<20 || full.Hint() == "" {
		t.Fatalf("error %v", err)
	}
	if r.count("free") == 0 {
		t.Error("no warning before")
	}
	h.sh(t, "nix-store --verify --check-contents; test ! -e /nix/var/nix/gcroots/fleet/test-push")
}

func TestLocalCorruptionIsNamed(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	s := connect(t, l.connector(), h.spec("root"))
	for rule, damage := range map[string]func(name string, text []byte){
		"another content": func(name string, text []byte) { text[len(text)-1] ^= 1; write(t, name, string(text), 0o444) },
		"longer":          func(name string, text []byte) { write(t, name, string(text)+strings.Repeat("x", 1000), 0o444) },
		"shorter":         func(name string, text []byte) { write(t, name, string(text[:10]), 0o444) },
	} {
		t.Run(rule, func(t *testing.T) {
			root := l.chain(t, 3, 1000)
			text := readFile(t, root.String())
			command(t, "chmod", "u+w", root.String())
			damage(root.String(), []byte(text))
			_, err := s.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}})
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.Path != root || corrupt.Host != "" {
				t.Errorf("error %v", err)
			}
			h.sh(t, "test ! -e "+root.String())
		})
	}
}

func TestFetchBringsAClosureBack(t *testing.T) {
	l := newLabAlone(t) // it empties the store
	root := l.chain(t, 5, 1000)
	h := l.host(t, hostOptions{})
	c := l.connector()
	c.Store, c.Import = l.store, closure.ImportOptions{SkipSignatures: true}
	s := connect(t, c, h.spec("root"))
	push(t, s, root)
	l.forget(t)
	c.Store = l.store
	if err := s.Fetch(t.Context(), []storepath.Path{root}); err != nil {
		t.Fatal(err)
	}
	command(t, "nix-store", "--check-validity", root.String())
	command(t, "nix-store", "--verify", "--check-contents")
	missing, err := storepath.Parse("/nix/store/00000000000000000000000000000000-nothing")
	if err != nil {
		t.Fatal(err)
	}
	var answer *AgentError
	if err := s.Fetch(t.Context(), []storepath.Path{missing}); !errors.As(err, &answer) || answer.Code != proto.CodeNotFound {
		t.Errorf("fetch of nothing: %v", err)
	}
}

// forget empties the operator's store of all but the helper.
func (l *lab) forget(t *testing.T) {
	t.Helper()
	links, err := filepath.Glob(filepath.Join(l.dir, "*.root"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		os.Remove(link)
	}
	l.store.Close()
	l.store = closure.NewLocalStore(closure.LocalOptions{})
	command(t, "nix-store", "--realise", "--add-root", filepath.Join(l.dir, "helper-root"), "--indirect", l.helper.String())
	command(t, "nix-collect-garbage")
}

func TestBuildOnAHost(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	c := l.connector()
	s := connect(t, c, h.spec("root"))
	instantiate := func(script string) storepath.Path {
		expr := fmt.Sprintf(`derivation { name = "built"; system = %q; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-c" %q ]; input = %s; }`,
			system(), script, "builtins.storePath "+l.chain(t, 1, 10).String())
		out := command(t, "nix-instantiate", "-E", expr)
		drv, err := storepath.Parse(strings.TrimSpace(out))
		if err != nil {
			t.Fatal(err)
		}
		return drv
	}
	drv := instantiate("echo hello from the build; echo done > $out")
	var lines []string
	out, err := s.Build(t.Context(), BuildRequest{Drv: drv, Log: func(line string) { lines = append(lines, line) }})
	if err != nil {
		t.Fatal(err)
	}
	h.sh(t, "nix-store --check-validity "+out.String())
	if !strings.Contains(strings.Join(lines, "\n"), "hello from the build") {
		t.Errorf("log: %q", lines)
	}
	if _, err := os.Stat(out.String()); err == nil {
		t.Error("it was built here")
	}
	failing := instantiate("echo no >&2; exit 3")
	_, err = s.Build(t.Context(), BuildRequest{Drv: failing})
	var failed *BuildError
	if !errors.As(err, &failed) || failed.Drv != failing || failed.Reason == "" {
		t.Errorf("error %v", err)
	}
	_, err = s.Build(t.Context(), BuildRequest{Drv: drv, Out: drv})
	if err == nil || !strings.Contains(err.Error(), "has built") {
		t.Errorf("another output: %v", err)
	}
}

func TestSessionOverTheSystemsSSH(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	root := l.chain(t, 3, 300_000)
	for _, who := range []struct{ user, elevation string }{{"sudoer", "sudo"}, {"tty", "sudo"}, {"doas", "doas"}} {
		t.Run(who.user, func(t *testing.T) {
			p := &typist{answers: []string{"right"}}
			c := l.connector()
			c.Password = p.ask
			spec := h.spec(who.user)
			spec.Transport, spec.Elevation = "openssh", who.elevation
			s := connect(t, c, spec)
			push(t, s, root)
			if info := s.Info(); !info.Root || len(p.prompts) != 1 {
				t.Errorf("%+v after %d prompts", info, len(p.prompts))
			}
		})
	}
}

func TestSessionWithThisMachine(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 1, 10)
	s := connect(t, l.connector(), HostSpec{Target: transport.Target{Host: "here", Address: "local"}, System: system()})
	if result := push(t, s, root); result.Paths != 0 {
		t.Errorf("pushed to itself: %+v", result)
	}
	if _, err := os.Stat("/nix/var/nix/gcroots/fleet/test-push"); err != nil {
		t.Error(err)
	}
}

func TestPasswordIsSharedAmongHosts(t *testing.T) {
	l := newLab(t)
	p := &typist{answers: []string{"right"}}
	c := l.connector()
	c.Password, c.SharePassword = p.ask, true
	var group sync.WaitGroup
	for range 3 {
		h := l.host(t, hostOptions{})
		group.Go(func() {
			s, err := c.Connect(t.Context(), h.spec("sudoer"))
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(p.prompts) != 1 {
		t.Errorf("prompts: %q", p.prompts)
	}
	if err := c.Close(); err != nil || c.vault.shared != nil {
		t.Error("the password is kept")
	}
}

func TestNoOpNeedsOneConnection(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	root := l.chain(t, 2, 10)
	push(t, connect(t, l.connector(), h.spec("root")), root)
	c := l.connector()
	d := &countingDialer{Dialer: c.Dialers["native"]}
	c.Dialers["native"] = d
	began := time.Now()
	push(t, connect(t, c, h.spec("root")), root)
	t.Logf("session and push of nothing: %v", time.Since(began))
	if d.n != 1 {
		t.Errorf("%d connections", d.n)
	}
}
