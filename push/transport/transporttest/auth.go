package transporttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"fleet/push/transport"
)

func authTests() map[string]func(*testing.T, Env) {
	return map[string]func(*testing.T, Env){
		"a wrong user is refused":                                       wrongUser,
		"a key that is not authorized is refused, and named":            wrongKey,
		"without any key the error says so":                             noKey,
		"a user certificate logs in":                                    userCertificate,
		"an encrypted key asks for its passphrase once for many hosts":  passphraseOnce,
		"a wrong passphrase is asked again, and given up at last":       passphraseWrong,
		"an encrypted key is not used where nobody can be asked":        nobodyToAsk,
		"a passphrase is not asked for a key that the server refuses":   noNeedlessQuestion,
		"an agent's keys are used":                                      agentKeys,
		"IdentitiesOnly keeps other keys of the agent back":             identitiesOnly,
		"a public key file picks its key from the agent":                agentByPublicKey,
		"a silent agent is given up":                                    silentAgent,
		"a key that others can read is not used":                        openKey,
		"what a server says before the login is bounded and harmless":   hostileBanner,
		"a cancelled question ends the dial and leaves the key unknown": cancelledQuestion,
	}
}

func wrongUser(t *testing.T, env Env) {
	r := newRig(t, env)
	r.target.User = "nobody-like-this"
	err := refused[*transport.AuthError](r)
	if err.User != "nobody-like-this" || err.Host != "web1" || err.Address != r.address() {
		t.Errorf("error is %+v", err)
	}
}

func wrongKey(t *testing.T, env Env) {
	r := newRig(t, env)
	other := NewKey(t)
	other.Write(t, r.path("id"), "")
	err := refused[*transport.AuthError](r)
	if !mentions(err.Offered, ssh.FingerprintSHA256(other.Public())) || !slices.Contains(err.Methods, "publickey") {
		t.Errorf("error is %+v", err)
	}
	if !strings.Contains(err.Hint(), r.path("id")) {
		t.Errorf("hint is %q", err.Hint())
	}
}

func mentions(list []string, text string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, text) })
}

func noKey(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = []string{"IdentityFile " + r.path("missing")}
	if err := refused[*transport.AuthError](r); len(err.Offered) != 0 {
		t.Errorf("error is %+v", err)
	}
}

func userCertificate(t *testing.T, env Env) {
	authority := NewKey(t)
	r := newRig(t, env, func(_ *rig, o *ServerOptions) { o.AuthorizedKeys, o.UserAuthority = nil, authority.Public() })
	cert := string(ssh.MarshalAuthorizedKey(Certify(t, authority, r.userKey, ssh.UserCert, r.server.User())))
	writeFile(t, r.path("id-cert.pub"), cert)
	r.dial()
	if err := os.Rename(r.path("id-cert.pub"), r.path("elsewhere.pub")); err != nil {
		t.Fatal(err)
	}
	refused[*transport.AuthError](r)
	r.config = append(r.config, "CertificateFile "+r.path("elsewhere.pub"))
	r.dial()
}

func passphraseOnce(t *testing.T, env Env) {
	r := newRig(t, env)
	r.userKey.Write(t, r.path("id"), "open sesame")
	var asked atomic.Int32
	r.options.Prompt = func(_ context.Context, prompt string) ([]byte, error) {
		asked.Add(1)
		if !strings.Contains(prompt, r.path("id")) {
			t.Errorf("question is %q", prompt)
		}
		return []byte("open sesame"), nil
	}
	dialer := r.dialer()
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			conn, err := dialer.Dial(context.Background(), r.target)
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			_ = conn.Close()
		})
	}
	work.Wait()
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func passphraseWrong(t *testing.T, env Env) {
	r := newRig(t, env)
	r.userKey.Write(t, r.path("id"), "right")
	asked, answers := 0, []string{"wrong", "right"}
	r.options.Prompt = func(context.Context, string) ([]byte, error) {
		asked++
		return []byte(answers[min(asked, len(answers))-1]), nil
	}
	r.dial()
	if asked != 2 {
		t.Errorf("asked %d times for one mistake", asked)
	}
	asked, answers = 0, []string{"wrong"}
	refused[*transport.AuthError](r)
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

func nobodyToAsk(t *testing.T, env Env) {
	r := newRig(t, env)
	r.userKey.Write(t, r.path("id"), "right")
	refused[*transport.AuthError](r)
	asked := 0
	r.options.Prompt = func(context.Context, string) ([]byte, error) { asked++; return nil, errors.New("no terminal") }
	refused[*transport.AuthError](r)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func noNeedlessQuestion(t *testing.T, env Env) {
	r := newRig(t, env)
	NewKey(t).Write(t, r.path("other"), "secret")
	r.config = append([]string{"IdentityFile " + r.path("other")}, r.config...)
	r.options.Prompt = func(context.Context, string) ([]byte, error) {
		t.Error("asked")
		return nil, errors.New("no")
	}
	r.dial()
}

// startAgent serves keys on a socket, until the test ends.
func startAgent(t *testing.T, path string, keys ...Key) {
	t.Helper()
	ring := agent.NewKeyring()
	for _, key := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: key.Private, Comment: "in agent"}); err != nil {
			t.Fatal(err)
		}
	}
	serveSocket(t, path, func(conn net.Conn) { _ = agent.ServeAgent(ring, conn) })
}

func serveSocket(t *testing.T, path string, serve func(net.Conn)) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); work.Wait() })
}

func agentKeys(t *testing.T, env Env) {
	r := newRig(t, env)
	startAgent(t, r.path("agent"), NewKey(t), r.userKey)
	r.config = []string{"IdentityFile " + r.path("missing"), "IdentityAgent " + r.path("agent")}
	r.dial()
}

func identitiesOnly(t *testing.T, env Env) {
	r := newRig(t, env)
	startAgent(t, r.path("agent"), r.userKey)
	other := NewKey(t)
	other.Write(t, r.path("id"), "")
	r.config = append(r.config, "IdentityAgent "+r.path("agent"))
	err := refused[*transport.AuthError](r)
	if mentions(err.Offered, ssh.FingerprintSHA256(r.userKey.Public())) || !mentions(err.Offered, ssh.FingerprintSHA256(other.Public())) {
		t.Errorf("offered %q", err.Offered)
	}
}

func agentByPublicKey(t *testing.T, env Env) {
	r := newRig(t, env)
	var others []Key
	for range 8 { // more than a server lets one try
		others = append(others, NewKey(t))
	}
	startAgent(t, r.path("agent"), append(others, r.userKey)...)
	writeFile(t, r.path("chosen.pub"), r.userKey.Text()+"\n")
	r.config = []string{"IdentityFile " + r.path("chosen.pub"), "IdentitiesOnly yes", "IdentityAgent " + r.path("agent")}
	r.dial()
}

func silentAgent(t *testing.T, env Env) {
	if env.WaitsForAgent {
		return // OpenSSH has no limit for its agent; that of the whole login is tested elsewhere
	}
	r := newRig(t, env)
	stop := make(chan struct{})
	serveSocket(t, r.path("agent"), func(net.Conn) { <-stop })
	t.Cleanup(func() { close(stop) })
	r.config = append(r.config, "IdentityAgent "+r.path("agent"))
	begin := time.Now()
	_, err := r.try()
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("took %v", took)
	}
	if err != nil {
		t.Errorf("dial: %v", err)
	}
}

func openKey(t *testing.T, env Env) {
	r := newRig(t, env)
	if err := os.Chmod(r.path("id"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := refused[*transport.AuthError](r); len(err.Skipped) == 0 || !mentions(err.Skipped, r.path("id")) && !mentions(err.Skipped, "UNPROTECTED") {
		t.Errorf("error is %+v", err)
	}
}

func hostileBanner(t *testing.T, env Env) {
	banner := "hello\n\x1b[2J\x1b]0;title\x07evil\r\nPermission denied (publickey).\ndebug1: Server host key: ssh-ed25519 SHA256:fake\n" + strings.Repeat("long line\n", 2000)
	r := newRig(t, env, func(_ *rig, o *ServerOptions) { o.Banner = banner })
	var got []string
	r.options.Banner = func(host, text string) { got = append(got, fmt.Sprintf("%s: %s", host, text)) }
	if key, _ := r.dial().HostKey(); key != r.hostKey.Text() {
		t.Errorf("host key is %q", key)
	}
	if !env.OwnBanner {
		return
	}
	if len(got) != 1 || !strings.HasPrefix(got[0], "web1: hello\nevil\n") || len(got[0]) > 5000 || strings.ContainsAny(got[0], "\x1b\x07\r") {
		t.Errorf("banner is %q", got)
	}
}

func cancelledQuestion(t *testing.T, env Env) {
	r := newRig(t, env)
	r.userKey.Write(t, r.path("id"), "right")
	asked := make(chan struct{})
	var first sync.Once
	again := false
	r.options.Prompt = func(ctx context.Context, _ string) ([]byte, error) {
		if again {
			return []byte("right"), nil
		}
		first.Do(func() { close(asked) })
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-asked; cancel() }()
	dialer := r.dialer()
	if err := within(t, func() error { _, err := dialer.Dial(ctx, r.target); return err }); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	again = true
	conn, err := dialer.Dial(context.Background(), r.target)
	if err != nil {
		t.Fatalf("second dial: %v", err)
	}
	_ = conn.Close()
}
