package push

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/transport"
)

// refused connects to a host where the helper cannot run, and returns why.
func refused(t *testing.T, c *Connector, spec HostSpec) error {
	t.Helper()
	s, err := c.Connect(t.Context(), spec)
	if err == nil {
		s.Close()
		t.Fatal("the helper runs there")
	}
	if !HelperUnable(err) {
		t.Fatalf("a push without the helper is not tried after %v", err)
	}
	return err
}

// plainly opens a way to push without the helper, after finding out that it cannot run.
func plainly(t *testing.T, c *Connector, spec HostSpec) *Plain {
	t.Helper()
	p, err := c.Plain(t.Context(), spec, refused(t, c, spec))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func pushPlainly(t *testing.T, p *Plain, root storepath.Path) PushResult {
	t.Helper()
	result, err := p.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}, RootName: "test-push"})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

const trustAll = "trusted-users = root plain serves imports"

func TestPlainPush(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 20, 10_000)
	for _, tt := range []struct {
		name, user, transport, says string
		// protected says that a collection leaves what was pushed.
		protected bool
	}{
		{"a user who does not become root", "plain", "native", "nix-store --serve", true},
		{"the same with the system's ssh", "plain", "openssh", "nix-store --serve", true},
		{"a login that may only serve", "serves", "native", "nix-store --serve", false},
		{"a Nix that does not serve", "imports", "native", "nix-store --import", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := l.host(t, hostOptions{conf: trustAll})
			c := l.connector()
			r := &recorder{}
			c.Reporter = r
			spec := h.spec(tt.user)
			spec.Transport = tt.transport
			p := plainly(t, c, spec)
			if r.count("pushing to the host's own "+tt.says) != 1 {
				t.Error("nobody was told")
			}
			first := pushPlainly(t, p, root)
			if first.Paths < 20 || first.NarBytes < 200_000 || first.WireBytes < 200_000 {
				t.Errorf("first push: %+v", first)
			}
			if len(first.Notices) == 0 || strings.Contains(first.Notices[0], "garbage") == tt.protected {
				t.Errorf("notices: %q", first.Notices)
			}
			if second := pushPlainly(t, p, root); second.Paths != 0 || second.NarBytes != 0 {
				t.Errorf("second push: %+v", second)
			}
			r.checkProgress(t, first.NarBytes)
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			awaitOutput(t, h, "pgrep -l nix-store; pgrep -l -u "+tt.user+"; true", "")
			h.sh(t, "nix-store --verify --check-contents && nix-collect-garbage")
			valid := h.sh(t, "nix-store --check-validity "+root.String()+" 2>/dev/null && echo yes || echo no")
			if (valid == "yes") != tt.protected {
				t.Errorf("valid after a collection: %s", valid)
			}
		})
	}
}

// Root has no need of a daemon, and its GC root is the agent's.
func TestPlainPushAsRoot(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{noDaemon: true})
	root := l.chain(t, 2, 100)
	p, err := l.connector().Plain(t.Context(), h.spec("root"), errors.New("there is no helper"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	pushPlainly(t, p, root)
	h.sh(t, "nix-collect-garbage && nix-store --check-validity "+root.String()+" && test -e /nix/var/nix/gcroots/fleet/test-push")
}

func TestPlainPushWhereNothingMayBeStarted(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 3, 100)
	key := l.signingKey(t)
	h := l.host(t, hostOptions{conf: "trusted-public-keys = " + key.PublicKey().String()})
	h.sh(t, "mount -o remount,bind,noexec /tmp")
	spec := h.spec("plain")
	spec.Elevation = elevationNone
	p := plainly(t, l.connector(), spec)
	request := PushRequest{Roots: []storepath.Path{root}, RootName: "test-push"}
	_, err := p.Push(t.Context(), request)
	untrusted, ok := errors.AsType[*NotTrustedError](err)
	if !ok || untrusted.Path.IsZero() || untrusted.User != "plain" || !strings.Contains(untrusted.Hint(), `trusted-users = [ "plain" ]`) {
		t.Errorf("error %v", err)
	}
	request.Signer = key
	if _, err := p.Push(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	h.sh(t, "nix-collect-garbage && nix-store --check-validity "+root.String())
}

func TestNoPlainPush(t *testing.T) {
	l := newLab(t)
	cause := errors.New("there is no helper")
	t.Run("to a store that is root's alone", func(t *testing.T) {
		h := l.host(t, hostOptions{noDaemon: true})
		spec := h.spec("plain")
		_, err := l.connector().Plain(t.Context(), spec, refused(t, l.connector(), spec))
		plain, ok := errors.AsType[*PlainError](err)
		if !ok || !strings.Contains(plain.Reason, `"plain"`) {
			t.Errorf("error %v", err)
		}
		if _, ok := errors.AsType[*NoElevationError](err); !ok {
			t.Error("the cause is lost")
		}
		h.sh(t, "test ! -e /home/plain/.local")
	})
	t.Run("without Nix", func(t *testing.T) {
		h := l.host(t, hostOptions{size: "none"})
		_, err := l.connector().Plain(t.Context(), h.spec("plain"), cause)
		if _, ok := errors.AsType[*NoStoreError](err); !ok {
			t.Errorf("error %v", err)
		}
	})
	t.Run("to another system", func(t *testing.T) {
		spec := l.host(t, hostOptions{conf: trustAll}).spec("plain")
		spec.System = "riscv64-linux"
		_, err := l.connector().Plain(t.Context(), spec, cause)
		if _, ok := errors.AsType[*WrongSystemError](err); !ok {
			t.Errorf("error %v", err)
		}
	})
	t.Run("to a machine that is another one", func(t *testing.T) {
		spec := l.host(t, hostOptions{conf: trustAll}).spec("plain")
		spec.Target.HostKeys = []string{l.key(t, "other")}
		_, err := l.connector().Plain(t.Context(), spec, cause)
		if _, ok := errors.AsType[*transport.HostKeyError](err); !ok {
			t.Errorf("error %v", err)
		}
	})
}

func TestPlainPushToAFullStore(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{size: "24m", conf: trustAll})
	p := plainly(t, l.connector(), h.spec("plain"))
	_, err := p.Push(t.Context(), PushRequest{Roots: []storepath.Path{l.chain(t, 3, 10<<20)}, RootName: "test-push"})
	if full, ok := errors.AsType[*StoreFullError](err); !ok || full.Need < 30<<20 || full.Reason == "" {
		t.Errorf("error %v", err)
	}
}

// meddling is a store that does something before it gives the NAR of one of its paths.
type meddling struct {
	closure.Source
	path   storepath.Path
	meddle func() error
	done   atomic.Bool
}

func (m *meddling) NAR(ctx context.Context, path storepath.Path, w io.Writer) error {
	if path == m.path && !m.done.Swap(true) {
		if err := m.meddle(); err != nil {
			return err
		}
	}
	return m.Source.NAR(ctx, path, w)
}

func TestPlainPushGoesOn(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 12, 300_000)
	graph, err := l.store.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	total := graph.Sizes().NAR
	t.Run("where nix-store has ended", func(t *testing.T) {
		h := l.host(t, hostOptions{conf: trustAll})
		c := l.connector()
		r := &recorder{}
		c.Reporter = r
		c.Source = &meddling{Source: l.store, path: root, meddle: func() error {
			h.sh(t, "pkill -KILL -u plain -x nix-store")
			return nil
		}}
		p := plainly(t, c, h.spec("plain"))
		result := pushPlainly(t, p, root)
		if r.count("going on with what is missing") != 1 || result.NarBytes > total {
			t.Errorf("%+v of %d", result, total)
		}
		h.sh(t, "nix-store --verify --check-contents && nix-store --check-validity "+root.String())
	})
	t.Run("over another connection", func(t *testing.T) {
		h := l.host(t, hostOptions{conf: trustAll})
		c := l.connector()
		r := &recorder{}
		c.Reporter = r
		proxy := newProxy(t, h)
		c.Source = &meddling{Source: l.store, path: root, meddle: func() error {
			proxy.cut()
			return nil
		}}
		p := plainly(t, c, proxy.through(h.spec("plain")))
		result := pushPlainly(t, p, root)
		if r.count("connection lost") != 1 || result.NarBytes > total || result.WireBytes > total*2 {
			t.Errorf("%+v of %d", result, total)
		}
		h.sh(t, "nix-store --verify --check-contents && nix-store --check-validity "+root.String())
	})
	t.Run("not where our own store is damaged", func(t *testing.T) {
		h := l.host(t, hostOptions{conf: trustAll})
		broken := errors.New("the disk is gone")
		c := l.connector()
		c.Source = &meddling{Source: l.store, path: root, meddle: func() error { return broken }}
		p := plainly(t, c, h.spec("plain"))
		if _, err := p.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}}); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
	})
}

// endless is a login shell that prints the same for ever.
type endless string

func (e endless) Read(p []byte) (int, error) { return copy(p, e), nil }

func TestAProgramBeginsAfterWhatTheLoginShellPrints(t *testing.T) {
	for name, tt := range map[string]struct {
		says io.Reader
		ok   bool
	}{
		"nothing else":      {strings.NewReader("marker\nrest"), true},
		"news":              {strings.NewReader("Welcome!\r\n" + strings.Repeat("x", 10_000) + "\nmarker\r\nrest"), true},
		"an unended line":   {strings.NewReader("> marker\nrest"), true},
		"an endless line":   {endless("x"), false},
		"endless lines":     {endless("x\n"), false},
		"the end":           {strings.NewReader("This account is not available.\n"), false},
		"a marker cut off":  {strings.NewReader("mark"), false},
		"nothing, at once":  {strings.NewReader(""), false},
		"a marker too late": {strings.NewReader(strings.Repeat("x\n", maxProbe) + "marker\nrest"), false},
	} {
		c := &plainChannel{host: "web", out: bufio.NewReader(tt.says)}
		err := c.skip("marker")
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if rest, err := io.ReadAll(c); string(rest) != "rest" || err != nil {
			t.Errorf("%s: %q is left, %v", name, rest, err)
		}
	}
}

// The bound for an answer is one for silence: a push may take longer than that.
func TestPlainPushToASilentHost(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 3, 1000)
	h := l.host(t, hostOptions{conf: trustAll})
	c := l.connector()
	c.Timeouts.Answer = time.Second
	c.Source = &meddling{Source: l.store, path: root, meddle: func() error {
		h.sh(t, "pkill -STOP -u plain -x nix-store")
		return nil
	}}
	p := plainly(t, c, h.spec("plain"))
	_, err := p.Push(t.Context(), PushRequest{Roots: []storepath.Path{root}})
	if !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), `"web"`) {
		t.Errorf("error %v", err)
	}
	h.sh(t, "pkill -KILL -u plain -x nix-store || true")
}

func TestHelperUnable(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"no elevation":          {&NoElevationError{}, true},
		"a wrong password":      {&PasswordError{}, false},
		"an odd login shell":    {&ProbeError{Reason: "answer lacks \"uid\""}, true},
		"a silent host":         {&ProbeError{Reason: errTimeout.Error()}, false},
		"another system":        {&WrongSystemError{}, false},
		"no Nix":                {&NoStoreError{}, false},
		"no execution":          {&BootstrapError{Output: "Permission denied", Unable: true}, true},
		"a full disk":           {&BootstrapError{Output: "write error: No space left on device", Unable: true}, false},
		"an odd helper":         {&BootstrapError{Reason: "its line is no JSON"}, false},
		"another version":       {&VersionError{}, false},
		"another key":           {&transport.HostKeyError{}, false},
		"a refused login":       {&transport.AuthError{}, false},
		"a host that is away":   {&transport.UnreachableError{}, false},
		"something of our disk": {os.ErrPermission, false},
	} {
		if got := HelperUnable(tt.err); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
