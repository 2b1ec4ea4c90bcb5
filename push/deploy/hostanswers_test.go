package deploy

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/secretsgen"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

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

func TestWhatAHostSaysIsNotSaidTwice(t *testing.T) {
	for message, want := range map[string]string{
		`generate secret "shared/ca": the generator failed with exit status 1`: `generate secret "shared/ca" on "hsm": the generator failed with exit status 1`,
		"no generator": `generate secret "shared/ca" on "hsm": no generator`,
	} {
		err := &HostSecretsError{Host: "hsm", What: `generate secret "shared/ca"`, Answer: &push.AgentError{Message: message}}
		if err.Error() != want {
			t.Errorf("got %s", err)
		}
	}
}
