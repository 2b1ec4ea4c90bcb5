package push

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/storepath"
	"fleet/push/proto"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// owner makes the host's SSH key one that secrets are encrypted to.
func (h *host) owner(t *testing.T) seal.Recipient {
	t.Helper()
	h.sh(t, "rm -f /etc/ssh/ssh_host_* && mkdir -p /etc/ssh && install -m 0600 "+h.lab.dir+"/host_key /etc/ssh/ssh_host_ed25519_key")
	recipient, err := seal.ParseRecipient(h.lab.hostKey)
	if err != nil {
		t.Fatal(err)
	}
	return recipient
}

// generator puts a program into the operator's store.
func (l *lab) generator(t *testing.T, script string) storepath.Path {
	t.Helper()
	dir, err := os.MkdirTemp(l.dir, "generator-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bin", "generate"), "#!/bin/sh\n"+script, 0o755)
	return l.add(t, dir)
}

// request asks for a run of a generator, for the host alone.
func (h *host) request(t *testing.T, program storepath.Path) step.Request {
	t.Helper()
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return step.Request{
		Program: program.String() + "/bin/generate", Fleet: "default", ID: secret.ID{Scope: secret.Shared, Name: "ca"}, Gen: gen, Seq: 1,
		Owners: map[string]string{"web": h.lab.hostKey}, Sandbox: step.SandboxNone,
		Parts: map[string]step.Part{"public": {Type: "text"}, "secret": {Encrypted: true}},
	}
}

func TestSecretsOverASession(t *testing.T) {
	l := newLab(t)
	program := l.generator(t, "id -un >$out/public\nprintf s3cret >$out/secret\nprintf '\\033[31mtouch\\033[0m the token\\n'\n")
	for _, user := range []string{"root", "free"} {
		t.Run(user, func(t *testing.T) {
			h := l.host(t, hostOptions{})
			h.owner(t)
			s := connect(t, l.connector(), h.spec(user))
			push(t, s, program)
			request := h.request(t, program)
			var result step.Result
			var lines []string
			err := s.Secrets(t.Context(), SecretsRequest{
				Method: proto.MethodSecretsRun, Params: request, Result: &result, Log: func(line string) { lines = append(lines, line) },
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(result.Parts["public"].Public)); got != user {
				t.Errorf("it ran as %q", got)
			}
			if diff := cmp.Diff([]string{"touch the token"}, lines); diff != "" {
				t.Error(diff)
			}
			ref := seal.Ref{
				Fleet: "default", ID: request.ID, Part: "secret", Gen: request.Gen, Seq: 1,
				Armor: result.Sealed["web"]["secret"].Armor, Commit: result.Parts["secret"].Commit,
			}
			var value proto.SecretValue
			if err := s.Secrets(t.Context(), SecretsRequest{Method: proto.MethodSecretsOpen, Params: ref, Result: &value}); err != nil || string(value.Value) != "s3cret" {
				t.Errorf("open: %q, %v", value.Value, err)
			}
			text, err := json.Marshal(ref)
			if err != nil {
				t.Fatal(err)
			}
			var verified proto.SecretsVerifyResult
			if err := s.Secrets(t.Context(), SecretsRequest{Method: proto.MethodSecretsVerify, Params: proto.SecretsVerifyRequest{Parts: []json.RawMessage{text}}, Result: &verified}); err != nil || !cmp.Equal(verified.Wrong, []string{""}) {
				t.Errorf("verify: %q, %v", verified.Wrong, err)
			}
			ref.Gen = "00000000000000000000000000000000"
			err = s.Secrets(t.Context(), SecretsRequest{Method: proto.MethodSecretsOpen, Params: ref, Result: &value})
			if answer, ok := errors.AsType[*AgentError](err); !ok || !strings.Contains(answer.Message, "something else") {
				t.Errorf("another generation: %v", err)
			}
		})
	}
}

func TestSecretsNeedAnElevatedAgent(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	spec := h.spec("plain")
	spec.Elevation = "none"
	s := connect(t, l.connector(), spec)
	err := s.Secrets(t.Context(), SecretsRequest{Method: proto.MethodSecretsRewrap, Params: seal.RewrapRequest{}, Result: &seal.RewrapResult{}})
	answer, ok := errors.AsType[*AgentError](err)
	if !ok || answer.Code != proto.CodeForbidden || !strings.Contains(answer.Hint(), "deploy.elevation") {
		t.Errorf("got %v", err)
	}
	if err := s.Secrets(t.Context(), SecretsRequest{Method: proto.MethodBegin}); err == nil {
		t.Error("a method that is not about secrets was taken")
	}
}

// awaitRun waits until the generator has begun.
func (h *host) awaitRun(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); h.sh(t, "cat /home/free/runs 2>/dev/null || true") == ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the generator did not begin")
		}
	}
}

// awaitEnd waits until no process of the generator is left.
func (h *host) awaitEnd(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); h.sh(t, "pgrep -f 'sleep 7[7]7' || true") != ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the generator is still there")
		}
	}
}

const slowGenerator = "echo run >>/home/free/runs\nsleep 777\n"

func TestAGeneratorIsNotRunTwiceWhereTheConnectionBreaks(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	h.owner(t)
	p := newProxy(t, h)
	program := l.generator(t, slowGenerator)
	s := connect(t, l.connector(), p.through(h.spec("free")))
	push(t, s, program)
	done := make(chan error, 1)
	go func() {
		done <- s.Secrets(t.Context(), SecretsRequest{Method: proto.MethodSecretsRun, Params: h.request(t, program), Result: &step.Result{}})
	}()
	h.awaitRun(t)
	p.cut()
	err := <-done
	var broken *BrokenRunError
	if !errors.As(err, &broken) || broken.Host != "web" || !strings.Contains(broken.Hint(), "secrets sync") {
		t.Fatalf("got %v", err)
	}
	h.awaitEnd(t)
	// Over a new connection; what can be asked twice is.
	p.cut()
	var verified proto.SecretsVerifyResult
	if err := s.Secrets(t.Context(), SecretsRequest{Method: proto.MethodSecretsVerify, Params: proto.SecretsVerifyRequest{}, Result: &verified}); err != nil {
		t.Error(err)
	}
	if got := h.sh(t, "cat /home/free/runs"); got != "run" {
		t.Errorf("the generator ran like this: %q", got)
	}
}

func TestAGeneratorEndsWithTheRequest(t *testing.T) {
	l := newLab(t)
	program := l.generator(t, slowGenerator)
	for name, test := range map[string]struct {
		timeout time.Duration
		cancel  bool
		want    error
	}{
		"cancelled":       {0, true, context.Canceled},
		"too long for us": {3 * time.Second, false, errTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			h := l.host(t, hostOptions{})
			h.owner(t)
			s := connect(t, l.connector(), h.spec("free"))
			push(t, s, program)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				done <- s.Secrets(ctx, SecretsRequest{Method: proto.MethodSecretsRun, Params: h.request(t, program), Result: &step.Result{}, Timeout: test.timeout})
			}()
			h.awaitRun(t)
			if test.cancel {
				cancel()
			}
			if err := <-done; !errors.Is(err, test.want) {
				t.Errorf("got %v", err)
			}
			h.awaitEnd(t)
		})
	}
}
