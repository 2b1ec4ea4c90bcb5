package push

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/closure/storepath"
	"fleet/push/transport"
)

// typist is a person at a prompt. The answers are given in turn; the last one again and again.
type typist struct {
	mu      sync.Mutex
	answers []string
	prompts []string
	given   [][]byte
}

func (p *typist) ask(_ context.Context, prompt string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := p.answers[min(len(p.prompts), len(p.answers)-1)]
	p.prompts = append(p.prompts, prompt)
	given := []byte(answer)
	p.given = append(p.given, given)
	return given, nil
}

// checkZeroed fails where a password that was given is still in memory.
func (p *typist) checkZeroed(t *testing.T) {
	t.Helper()
	for _, given := range p.given {
		if len(bytes.Trim(given, "\x00")) > 0 {
			t.Errorf("the password %q was not zeroed", given)
		}
	}
}

// bootstrapOn runs the whole bootstrap and ends its connection.
func bootstrapOn(t *testing.T, c *Connector, h *host, user, elevation string) (agentRef, error) {
	t.Helper()
	conn, err := c.Dialers["native"].Dial(t.Context(), h.spec(user).Target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	spec := h.spec(user)
	spec.Elevation = elevation
	b := &bootstrap{c: c, spec: spec, conn: conn, helper: h.lab.helper, keys: &keyring{}}
	ref, err := b.run(t.Context())
	defer b.keys.forget()
	b.upload.close()
	b.door.close()
	return ref, err
}

func TestElevation(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	for rule, c := range map[string]struct {
		user, elevation string
		answers         []string
		prompts         int
		want            any
		says            string
	}{
		"root needs none":                    {user: "root"},
		"without a password":                 {user: "free"},
		"with the right password":            {user: "sudoer", answers: []string{"right"}, prompts: 1},
		"with the right password after all":  {user: "sudoer", answers: []string{"wrong", "right"}, prompts: 2},
		"with a wrong password":              {user: "sudoer", answers: []string{"wrong"}, prompts: 2, want: new(*PasswordError)},
		"where sudo wants a terminal":        {user: "tty", answers: []string{"right"}, prompts: 1},
		"a wrong password on a terminal":     {user: "tty", answers: []string{"wrong"}, prompts: 2, want: new(*PasswordError)},
		"where sudo makes a terminal":        {user: "pty", answers: []string{"right"}, prompts: 1},
		"where nobody may":                   {user: "plain", answers: []string{"right"}, prompts: 1, want: new(*NoElevationError), says: "sudo: "},
		"where nobody can be asked":          {user: "sudoer", want: new(*NoElevationError), says: "no terminal"},
		"with doas":                          {user: "doas", elevation: "doas", answers: []string{"right"}, prompts: 1},
		"with doas and a wrong password":     {user: "doas", elevation: "doas", answers: []string{"wrong"}, prompts: 2, want: new(*PasswordError)},
		"with doas, no password":             {user: "freedoas", elevation: "doas"},
		"with doas where it says no":         {user: "sudoer", elevation: "doas", answers: []string{"right"}, want: new(*NoElevationError), says: "not permitted"},
		"with what the host has not":         {user: "sudoer", elevation: "run0", want: new(*NoElevationError), says: "does not have it"},
		"with sudo after sudo refuses, doas": {user: "freedoas", answers: []string{"right"}, prompts: 1},
	} {
		t.Run(rule, func(t *testing.T) {
			p := &typist{answers: c.answers}
			connector := l.connector()
			if c.answers != nil {
				connector.Password = p.ask
			}
			if c.elevation == "" {
				c.elevation = "auto"
			}
			ref, err := bootstrapOn(t, connector, h, c.user, c.elevation)
			switch {
			case c.want == nil && err != nil:
				t.Fatal(err)
			case c.want == nil && (ref.exe != l.helper.String()+"/bin/fleet-helper" || ref.token == ""):
				t.Errorf("agent %+v", ref)
			case c.want != nil && !errors.As(err, c.want):
				t.Fatalf("error %v", err)
			case c.want != nil && !strings.Contains(strings.ToLower(err.Error()), c.says):
				t.Errorf("error %q does not say %q", err, c.says)
			}
			if len(p.prompts) != c.prompts {
				t.Errorf("prompts: %q", p.prompts)
			}
			p.checkZeroed(t)
		})
	}
	if left := h.sh(t, "ls -d /tmp/fleet* /home/*/fleet* 2>/dev/null || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	if log := h.sh(t, "cat /var/log/auth.log 2>/dev/null || true"); strings.Contains(log, "right") {
		t.Error("the password is in the log")
	}
}

func TestBootstrapSendsTheHelperOnce(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	r := &recorder{}
	c := l.connector()
	c.Reporter = r
	for range 2 {
		if _, err := bootstrapOn(t, c, h, "root", "auto"); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count("sending the helper"); n != 1 {
		t.Errorf("sent %d times", n)
	}
	// Between its import and its start nothing else protects it.
	h.sh(t, "nix-store --gc --print-roots | grep gcroots/fleet/.helper | grep "+l.helper.String())
	h.sh(t, "nix-store --verify --check-contents")
}

func TestBootstrapReplacesAHelperThatIsNotValid(t *testing.T) {
	for _, user := range []string{"root", "sudoer"} {
		t.Run(user, func(t *testing.T) {
			l := newLab(t)
			h := l.host(t, hostOptions{noDaemon: true})
			h.sh(t, "mkdir -p "+l.helper.String()+"/bin; cp /bin/false "+l.helper.String()+"/bin/fleet-helper")
			c, p := l.connector(), &typist{answers: []string{"right"}}
			c.Password = p.ask
			if _, err := bootstrapOn(t, c, h, user, "auto"); err != nil {
				t.Fatal(err)
			}
			if len(p.prompts) > 1 {
				t.Errorf("prompts: %q", p.prompts)
			}
		})
	}
}

func TestBootstrapWithoutGzip(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	conn, err := l.dialer().Dial(t.Context(), h.spec("root").Target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := &bootstrap{c: l.connector(), spec: h.spec("root"), conn: conn, helper: l.helper, keys: &keyring{}}
	if err := b.probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	delete(b.found.Tools, "gzip")
	if err := b.send(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := b.upload.dir
	if got := h.sh(t, "sha256sum <"+dir+"/export; stat -c %a "+dir); got != b.upload.export.sum+"  -\n700" {
		t.Errorf("on the host: %s", got)
	}
	b.upload.close()
	awaitOutput(t, h, "test -e "+dir+" || echo gone", "gone")
}

func TestBootstrapRefusesAnExportThatWasChanged(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	conn, err := l.dialer().Dial(t.Context(), h.spec("free").Target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := &bootstrap{c: l.connector(), spec: h.spec("free"), conn: conn, helper: l.helper, keys: &keyring{}}
	for _, step := range []func(context.Context) error{b.probe, b.send} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	defer b.upload.close()
	h.sh(t, "printf x | dd of="+b.upload.dir+"/export bs=1 seek=100000 conv=notrunc 2>/dev/null")
	_, err = b.elevate(t.Context())
	var boot *BootstrapError
	if !errors.As(err, &boot) || !strings.Contains(boot.Reason, "not the helper") {
		t.Errorf("error %v", err)
	}
	h.sh(t, "test ! -e "+l.helper.String())
}

func TestConnectChangesNothingWhereItCannotWork(t *testing.T) {
	l := newLab(t)
	for rule, c := range map[string]struct {
		options hostOptions
		system  string
		want    any
	}{
		"no store":     {options: hostOptions{size: "none"}, want: new(*NoStoreError)},
		"wrong system": {system: "riscv64-linux", want: new(*WrongSystemError)},
	} {
		t.Run(rule, func(t *testing.T) {
			h := l.host(t, c.options)
			spec := h.spec("root")
			if c.system != "" {
				spec.System = c.system
			}
			_, err := l.connector().Connect(t.Context(), spec)
			if !errors.As(err, c.want) {
				t.Fatalf("error %v", err)
			}
			var hint interface{ Hint() string }
			if !errors.As(err, &hint) || hint.Hint() == "" {
				t.Error("no hint")
			}
			if left := h.sh(t, "ls -A /tmp /run | grep -v sshd || true"); strings.Contains(left, "fleet") {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

func TestProbeOfALyingHost(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	for rule, shell := range map[string]string{
		"says nothing":       "#!/bin/sh\nexit 0\n",
		"says no":            "#!/bin/sh\necho 'This account is \033[31mnot available.'\nexit 1\n",
		"never ends":         "#!/bin/sh\nexec sleep 1000\n",
		"floods":             "#!/bin/sh\nexec yes\n",
		"answers for itself": "#!/bin/sh\neval \"set -- $2\"; marker=$5; echo \"$marker uid=0 user=root\"; exit 0\n",
	} {
		t.Run(rule, func(t *testing.T) {
			h.sh(t, "cat >/home/plain/shell <<'X'\n"+shell+"X\nchmod 755 /home/plain/shell; sed -i '/^plain:/s,[^:]*$,/home/plain/shell,' /etc/passwd")
			c := l.connector()
			c.Timeouts.Probe = 2 * time.Second
			_, err := c.Connect(t.Context(), h.spec("plain"))
			var probe *ProbeError
			if !errors.As(err, &probe) || strings.Contains(err.Error(), "\033") {
				t.Errorf("error %q", err)
			}
		})
	}
}

func TestCancelDuringElevationEndsEverything(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	c := l.connector()
	c.Password = func(ctx context.Context, _ string) ([]byte, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := c.Connect(ctx, h.spec("sudoer")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	awaitOutput(t, h, "pgrep -u sudoer -l; pgrep -l sudo; pgrep -l fleet; ls -d /tmp/fleet* 2>/dev/null; true", "")
}

func TestCancelAtAnyMomentLeavesNoProcessOnTheHost(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	c := l.connector()
	for step := range 12 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(step)*75*time.Millisecond)
		s, err := c.Connect(ctx, h.spec("free"))
		cancel()
		if err == nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("step %d: %v", step, err)
		}
	}
	awaitOutput(t, h, "pgrep -u free -a; pgrep -a sudo; pgrep -a fleet; ls -d /tmp/fleet* 2>/dev/null; true", "")
}

func TestAgentsLineIsChecked(t *testing.T) {
	helper, err := storepath.Parse(testHelper)
	if err != nil {
		t.Fatal(err)
	}
	line := func(version, socket, token string) string {
		return `{"version":` + version + `,"socket":"` + socket + `","token":"` + token + `"}`
	}
	const token = "0123456789ABCDEF"
	for rule, c := range map[string]struct {
		ready, helper string
		want          any
	}{
		"good":                  {ready: line("2", "/run/fleet/a/socket", token)},
		"another version":       {ready: line("7", "/run/fleet/a/socket", token), want: new(*VersionError)},
		"another helper":        {ready: line("2", "/run/fleet/a/socket", token), helper: "/tmp/x", want: new(*BootstrapError)},
		"no JSON":               {ready: "Welcome", want: new(*BootstrapError)},
		"a socket with a quote": {ready: line("2", "/run/x'y", token), want: new(*BootstrapError)},
		"a socket up the tree":  {ready: line("2", "/run/../etc", token), want: new(*BootstrapError)},
		"a relative socket":     {ready: line("2", "run", token), want: new(*BootstrapError)},
		"no token":              {ready: line("2", "/run/fleet/a/socket", ""), want: new(*BootstrapError)},
		"a token with a newline": {ready: line("2", "/run/fleet/a/socket", token+`
`), want: new(*BootstrapError)},
	} {
		t.Run(rule, func(t *testing.T) {
			if c.helper == "" {
				c.helper = testHelper
			}
			b := &bootstrap{spec: HostSpec{Elevation: elevationAuto}, helper: helper}
			ref, err := b.agent(outcome{Ready: c.ready, Helper: c.helper})
			if c.want == nil && (err != nil || ref != agentRef{exe: testHelper + "/bin/fleet-helper", socket: "/run/fleet/a/socket", token: token}) {
				t.Errorf("%+v, %v", ref, err)
			}
			if c.want != nil && !errors.As(err, c.want) {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Errorf("the token is in %q", err)
			}
		})
	}
}

// awaitOutput waits until a command prints what it should.
func awaitOutput(t *testing.T, h *host, command, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got = h.sh(t, command); got == want {
			return
		}
	}
	t.Errorf("%s: %q", command, got)
}

func (l *lab) connector() *Connector {
	return &Connector{
		Dialers: map[string]transport.Dialer{"native": l.dialer(), "openssh": l.openssh(), "local": transport.NewLocal()},
		Helper:  l.helperFor, Source: l.store, Software: "test",
	}
}

func readFile(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
