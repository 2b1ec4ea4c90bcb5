package deploy

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"fleet/push"
	"fleet/push/proto"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// keyOf makes a host key.
func keyOf(t *testing.T) (seal.Recipient, age.Identity) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := seal.ParseRecipient(string(ssh.MarshalAuthorizedKey(signer)))
	if err != nil {
		t.Fatal(err)
	}
	return recipient, identityOf(t, private)
}

func identityOf(t *testing.T, private ed25519.PrivateKey) age.Identity {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	identities, err := seal.LoadIdentities(file)
	if err != nil {
		t.Fatal(err)
	}
	return identities[0]
}

// refOf seals a value of a size.
func refOf(t *testing.T, name string, size int, to seal.Recipient) seal.Ref {
	t.Helper()
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	salt, err := seal.NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	ref := seal.Ref{Fleet: "default", ID: secret.ID{Scope: secret.Shared, Name: name}, Part: secret.PartSecret, Gen: gen, Seq: 1}
	value := secret.NewPlain(make([]byte, size))
	part, err := seal.Seal(ref.Context(), salt, value, to)
	if err != nil {
		t.Fatal(err)
	}
	ref.Armor, ref.Commit = part.Armor, seal.Commit(ref.Context(), salt, value)
	return ref
}

// owner answers as an agent does that has a key.
type owner struct {
	identity age.Identity
	// requests are the sizes of requests and answers, in bytes.
	requests []string
	largest  int
}

func (o *owner) answer(_ string, r push.SecretsRequest) error {
	params, err := json.Marshal(r.Params)
	if err != nil {
		return err
	}
	var answer any
	switch r.Method {
	case proto.MethodSecretsRewrap:
		answer, err = seal.RewrapAll(r.Params.(seal.RewrapRequest), o.identity)
	case proto.MethodSecretsVerify:
		var refs []seal.Ref
		for _, part := range r.Params.(proto.SecretsVerifyRequest).Parts {
			var ref seal.Ref
			if err := json.Unmarshal(part, &ref); err != nil {
				return err
			}
			refs = append(refs, ref)
		}
		answer = proto.SecretsVerifyResult{Wrong: seal.VerifyAll(refs, o.identity)}
	case proto.MethodSecretsOpen:
		opened, openErr := r.Params.(seal.Ref).Open(o.identity)
		answer, err = proto.SecretValue{Value: opened.Value.Bytes(), Salt: opened.Salt}, openErr
	}
	if err != nil {
		return &push.AgentError{Host: "a", Method: r.Method, Code: proto.CodeInternal, Message: err.Error(), Remedy: "look closer"}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	o.requests = append(o.requests, r.Method)
	o.largest = max(o.largest, len(params), len(text))
	return json.Unmarshal(text, r.Result)
}

func newTestHosts(w *world) *Hosts {
	return NewHosts(HostsOptions{Plan: w.plan, Connector: w, Reporter: w})
}

func TestLargeRequestsAreCutIntoPieces(t *testing.T) {
	w := newWorld("a")
	mine, identity := keyOf(t)
	o := &owner{identity: identity}
	w.answer = o.answer
	hosts := newTestHosts(w)
	defer hosts.Close()
	request := seal.RewrapRequest{To: map[string]string{}}
	for i := range 8 {
		request.Parts = append(request.Parts, refOf(t, fmt.Sprintf("s%d", i), 700<<10, mine))
	}
	request.Parts[3].Commit = strings.Repeat("0", 64)
	for i := range 6 {
		to, _ := keyOf(t)
		request.To[fmt.Sprintf("host-%d", i)] = to.Key
	}
	got, err := hosts.Rewrap(t.Context(), "a", request)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range got.Parts {
		want := slices.Sorted(maps.Keys(request.To))
		if i == 3 {
			want = nil
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(part.Sealed))); diff != "" || (part.Error != "") != (i == 3) {
			t.Errorf("part %d: %s %s", i, part.Error, diff)
		}
	}
	if len(o.requests) < 4 || o.largest > proto.MaxMessage*3/4 {
		t.Errorf("%d requests, the largest message has %d bytes", len(o.requests), o.largest)
	}

	o.requests, o.largest = nil, 0
	wrong, err := hosts.Verify(t.Context(), "a", request.Parts)
	if err != nil || len(wrong) != 8 || wrong[3] == "" || strings.Join(append(wrong[:3:3], wrong[4:]...), "") != "" {
		t.Errorf("got %q, %v", wrong, err)
	}
	if len(o.requests) < 2 || o.largest > proto.MaxMessage/2 {
		t.Errorf("%d requests, the largest message has %d bytes", len(o.requests), o.largest)
	}
}

func TestASmallRequestIsOne(t *testing.T) {
	w := newWorld("a")
	mine, identity := keyOf(t)
	o := &owner{identity: identity}
	w.answer = o.answer
	hosts := newTestHosts(w)
	defer hosts.Close()
	request := seal.RewrapRequest{To: map[string]string{"b": mine.Key, "c": mine.Key}}
	for i := range 200 {
		request.Parts = append(request.Parts, refOf(t, fmt.Sprintf("s%d", i), 32, mine))
	}
	if _, err := hosts.Rewrap(t.Context(), "a", request); err != nil || len(o.requests) != 1 {
		t.Errorf("%d requests, %v", len(o.requests), err)
	}
	opened, err := hosts.Open(t.Context(), "a", request.Parts[0])
	value := opened.Value
	if err != nil || value.Len() != 32 || seal.Commit(request.Parts[0].Context(), opened.Salt, value) != request.Parts[0].Commit || strings.Contains(fmt.Sprintf("%v %+v %#v %s", value, value, value, value), "0") {
		t.Errorf("got %v, %v", value, err)
	}
	other, _ := keyOf(t)
	_, err = hosts.Open(t.Context(), "a", refOf(t, "foreign", 1, other))
	var failed *HostSecretsError
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), `open shared/foreign`) || !strings.Contains(err.Error(), `on "a"`) || failed.Hint() != "a says: look closer" {
		t.Errorf("got %v", err)
	}
}

func TestAnAnswerThatIsSealedToSomebodyElseIsRefused(t *testing.T) {
	w := newWorld("a")
	mine, identity := keyOf(t)
	next, _ := keyOf(t)
	thief, _ := keyOf(t)
	request := seal.RewrapRequest{Parts: []seal.Ref{refOf(t, "db", 32, mine)}, To: map[string]string{"next": next.Key}}
	good, err := seal.RewrapAll(request, identity)
	if err != nil {
		t.Fatal(err)
	}
	sealedTo := func(host string, to seal.Recipient) map[string]secret.SealedPart {
		result, err := seal.RewrapAll(seal.RewrapRequest{Parts: request.Parts, To: map[string]string{host: to.Key}}, identity)
		if err != nil {
			t.Fatal(err)
		}
		return result.Parts[0].Sealed
	}
	cut := good.Parts[0].Sealed["next"]
	cut.Armor = cut.Armor[:len(cut.Armor)/2]
	wrongSum := good.Parts[0].Sealed["next"]
	wrongSum.SHA256 = strings.Repeat("0", 64)
	for name, sealed := range map[string]map[string]secret.SealedPart{
		"another key":      sealedTo("next", thief),
		"another host":     sealedTo("thief", next),
		"nobody":           {},
		"plaintext":        {"next": {Armor: "hunter2", SHA256: secret.Checksum("hunter2")}},
		"cut":              {"next": {Armor: cut.Armor, SHA256: secret.Checksum(cut.Armor)}},
		"a wrong checksum": {"next": wrongSum},
	} {
		w.answer = func(_ string, r push.SecretsRequest) error {
			r.Result.(*seal.RewrapResult).Parts = []seal.RewrappedPart{{Sealed: sealed}}
			return nil
		}
		got, err := newTestHosts(w).Rewrap(t.Context(), "a", request)
		if err != nil || got.Parts[0].Error == "" || got.Parts[0].Sealed != nil {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	w.answer = func(string, push.SecretsRequest) error { return nil }
	if _, err := newTestHosts(w).Rewrap(t.Context(), "a", request); err == nil {
		t.Error("an answer without parts was taken")
	}
	if _, err := newTestHosts(w).Verify(t.Context(), "a", request.Parts); err == nil {
		t.Error("an answer about no part was taken for a good one")
	}
}

func TestTheKeyOfAHostComesFromAHandshake(t *testing.T) {
	w := newWorld("a", "here")
	hosts := newTestHosts(w)
	defer hosts.Close()
	if key, err := hosts.Key(t.Context(), "a"); err != nil || key != "ssh-ed25519 a" {
		t.Errorf("got %q, %v", key, err)
	}
	if diff := cmp.Diff([]string{"a handshake"}, w.log); diff != "" {
		t.Error(diff)
	}
	if _, err := hosts.Key(t.Context(), "nobody"); err == nil {
		t.Error("a host that does not exist has a key")
	}
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "absent"), filepath.Join(dir, "rsa.pub")}
	if err := os.WriteFile(files[1], []byte("ssh-rsa AAAA root@here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if key, err := ownKey("here", files); err != nil || key != "ssh-rsa AAAA" {
		t.Errorf("this machine: %q, %v", key, err)
	}
	if _, err := ownKey("here", files[:1]); err == nil || !strings.Contains(err.Error(), "here") {
		t.Errorf("this machine without a key: %v", err)
	}
}
