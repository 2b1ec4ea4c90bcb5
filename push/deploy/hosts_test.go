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

	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
	"fleet/secretsgen"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
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

// madeBy is a generator's result.
func madeBy(t *testing.T, request step.Request, part, public string) step.Result {
	t.Helper()
	salt, err := seal.NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	value := secret.NewPlain([]byte("value"))
	result := step.Result{
		Parts: map[string]step.ResultPart{
			part:     {Encrypted: true, Commit: seal.Commit(request.Context(part), salt, value)},
			"public": {Commit: seal.Commit(request.Context("public"), nil, secret.NewPlain([]byte(public))), Public: []byte(public)},
		},
		Sealed: map[string]map[string]secret.SealedPart{},
	}
	for host, key := range request.Owners {
		to, err := seal.ParseRecipient(key)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := seal.Seal(request.Context(part), salt, value, to)
		if err != nil {
			t.Fatal(err)
		}
		result.Sealed[host] = map[string]secret.SealedPart{part: sealed}
	}
	return result
}

func TestAGeneratorIsPushedRunAndItsAnswerChecked(t *testing.T) {
	w := newWorld("hsm")
	one, _ := keyOf(t)
	two, _ := keyOf(t)
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := step.Request{
		Program: "/nix/store/" + zeros + "-generate/bin/generate", Fleet: "default", ID: secret.ID{Scope: secret.Shared, Name: "ca"}, Gen: gen, Seq: 1,
		Owners: map[string]string{"a": one.Key, "b": two.Key}, Sandbox: "none",
	}
	declared := request
	declared.Parts = map[string]step.Part{"secret": {Encrypted: true}, "public": {Type: "text"}}
	for name, test := range map[string]struct {
		request step.Request
		change  func(*step.Result)
		want    string
	}{
		"as asked for":          {request, func(*step.Result) {}, ""},
		"as declared":           {declared, func(*step.Result) {}, ""},
		"nothing at all":        {request, func(r *step.Result) { *r = step.Result{} }, "0 parts"},
		"an owner is forgotten": {request, func(r *step.Result) { delete(r.Sealed, "b") }, `nothing is sealed to "b"`},
		"somebody else owns it": {request, func(r *step.Result) { r.Sealed["c"] = r.Sealed["a"] }, "3 hosts"},
		"owners are mixed up":   {request, func(r *step.Result) { r.Sealed["a"], r.Sealed["b"] = r.Sealed["b"], r.Sealed["a"] }, "not sealed to"},
		"a part is forgotten":   {request, func(r *step.Result) { r.Sealed["a"] = nil }, "0 of 1 parts"},
		"a part that is not declared": {declared, func(r *step.Result) {
			r.Parts["extra"] = r.Parts["public"]
		}, "not declared"},
		"a declared part is not there": {declared, func(r *step.Result) { delete(r.Parts, "public") }, "2 are declared"},
		"public in place of encrypted": {declared, func(r *step.Result) { r.Parts["secret"] = r.Parts["public"] }, "mixed up"},
		"another public value": {request, func(r *step.Result) {
			part := r.Parts["public"]
			part.Public = []byte("another")
			r.Parts["public"] = part
		}, "another value"},
		"no commitment": {request, func(r *step.Result) { r.Parts["secret"] = step.ResultPart{Encrypted: true} }, "commitment"},
		"a bad name":    {request, func(r *step.Result) { r.Parts["../x"] = r.Parts["public"] }, "name"},
		"the value is shown": {request, func(r *step.Result) {
			part := r.Parts["secret"]
			part.Public = []byte("value")
			r.Parts["secret"] = part
		}, "shown"},
	} {
		t.Run(name, func(t *testing.T) {
			w.log = nil
			w.answer = func(_ string, r push.SecretsRequest) error {
				if r.Timeout <= step.DefaultTimeout {
					t.Errorf("the agent has %s to answer", r.Timeout)
				}
				r.Log("touch the token")
				result := madeBy(t, test.request, "secret", "ssh-ed25519 AAAA")
				test.change(&result)
				*r.Result.(*step.Result) = result
				return nil
			}
			hosts := newTestHosts(w)
			defer hosts.Close()
			result, err := hosts.Run(t.Context(), "hsm", test.request)
			if test.want == "" {
				if err != nil || len(result.Parts) != 2 {
					t.Errorf("got %+v, %v", result, err)
				}
				if diff := cmp.Diff([]string{"hsm connect", "hsm push", "hsm run"}, w.log); diff != "" {
					t.Error(diff)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "shared/ca") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	said := slices.ContainsFunc(w.events, func(e plan.Event) bool { return e.Host == "hsm" && e.Message == "touch the token" })
	if !said {
		t.Error("what the generator says is not told")
	}
}

func TestAHostThatCannotBeReachedIsToldFromOneThatRefuses(t *testing.T) {
	key, _ := keyOf(t)
	request := step.Request{Program: "/nix/store/" + zeros + "-generate/bin/generate", Fleet: "default", ID: secret.ID{Scope: secret.Shared, Name: "ca"}, Owners: map[string]string{"a": key.Key}}
	for name, test := range map[string]struct {
		change      func(w *world)
		unreachable bool
	}{
		"down":       {func(w *world) { w.hosts["hsm"].connect = errors.New("no route") }, true},
		"store full": {func(w *world) { w.hosts["hsm"].push = &push.StoreFullError{Host: "hsm"} }, true},
		"lost before it ran": {func(w *world) {
			w.answer = func(string, push.SecretsRequest) error {
				return &push.LostError{Host: "hsm", Err: errors.New("no route")}
			}
		}, true},
		"lost while it ran": {func(w *world) {
			w.answer = func(string, push.SecretsRequest) error { return &push.BrokenRunError{Host: "hsm"} }
		}, false},
		"refused": {func(w *world) {
			w.answer = func(string, push.SecretsRequest) error { return &push.AgentError{Host: "hsm", Message: "exit code 1"} }
		}, false},
	} {
		w := newWorld("hsm")
		test.change(w)
		_, err := newTestHosts(w).Run(t.Context(), "hsm", request)
		if err == nil || errors.Is(err, secretsgen.ErrUnreachable) != test.unreachable {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAPublicPartThatLooksPrivateDoesNotLeaveItsHost(t *testing.T) {
	w := newWorld("hsm")
	key, _ := keyOf(t)
	request := step.Request{Program: "/nix/store/" + zeros + "-generate/bin/generate", Fleet: "default", ID: secret.ID{Scope: secret.Shared, Name: "ca"}, Owners: map[string]string{"a": key.Key}}
	w.answer = func(_ string, r push.SecretsRequest) error {
		*r.Result.(*step.Result) = madeBy(t, request, "secret", "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ")
		return nil
	}
	if _, err := newTestHosts(w).Run(t.Context(), "hsm", request); err == nil || strings.Contains(err.Error(), "QQQ") {
		t.Errorf("got %v", err)
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
