package decide_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

const (
	genA = secret.Gen("0123456789abcdef0123456789abcdef")
	genB = secret.Gen("fedcba9876543210fedcba9876543210")
)

// key is a made-up fingerprint of a host's key.
func key(host string) string { return "SHA256:" + host }

func now() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC) }

// shared is a secret with a value for owners, all of it as it is declared, made by a generator.
func shared(owners ...string) decide.Input {
	seed := "seed"
	in := decide.Input{
		ID:     secret.ID{Scope: secret.Shared, Name: "db"},
		Owners: owners,
		Now:    now(),
		Hosts:  map[string]decide.Host{},
		Deps:   map[string]secret.Gen{},
		Spec: &plan.Secret{
			Owners: owners, OnGeneratorChange: "notice", OnDependencyChange: "regenerate",
			Parts:     map[string]plan.SecretPart{"secret": {Encrypted: true}, "public": {Type: plan.TypeText}},
			Generator: &plan.Generator{Kind: "script", Sandbox: "strict", Data: json.RawMessage(`{"size":32}`), Seed: &seed},
		},
		Entry: &state.Entry{
			ID: secret.ID{Scope: secret.Shared, Name: "db"},
			Meta: secret.Meta{
				Format: secret.Format, Gen: genA, Seq: 1, Origin: secret.Generated, GenerationData: json.RawMessage(`{"size":32}`), Seed: seed,
				Parts: map[string]secret.MetaPart{"secret": {Encrypted: true}, "public": {Encoding: secret.EncodingText}},
			},
			Owners: map[string]secret.Owner{},
		},
	}
	for _, host := range owners {
		in.Hosts[host] = decide.Host{Key: key(host)}
		in.Entry.Owners[host] = copyFor(host)
	}
	return in
}

func copyFor(host string) secret.Owner {
	return secret.Owner{Format: secret.Format, Gen: genA, Key: key(host), Parts: map[string]secret.SealedPart{"secret": {}}}
}

// manual makes it a secret whose value a person gives.
func manual(in decide.Input) decide.Input {
	in.Spec.Generator = nil
	in.Entry.Meta.GenerationData, in.Entry.Meta.Seed, in.Entry.Meta.Origin = nil, "", secret.Set
	return in
}

// broken is an entry of which a file cannot be read.
func broken(in decide.Input, path, owner string, err error) decide.Input {
	in.Entry.Err = errors.Join(in.Entry.Err, &state.BrokenError{ID: in.ID, Path: path, Owner: owner, Err: err})
	return in
}

type want struct {
	rules      []decide.Rule
	regenerate bool
	wrap       []string
	sources    []string
	remove     []string
	pending    []string
	waits      []string
	prune      bool
	human      string // a part of it
	notice     string // a part of one
	why        string // a part of it
}

func check(t *testing.T, in decide.Input, w want) {
	t.Helper()
	d := decide.Decide(in)
	got := want{d.Rules, d.Regenerate, d.Wrap, d.Sources, d.Remove, d.Pending, d.Waits, d.Prune, w.human, w.notice, w.why}
	if diff := cmp.Diff(w, got, cmp.AllowUnexported(want{})); diff != "" {
		t.Errorf("%s\n%+v", diff, d)
	}
	if w.human == "" && d.NeedsHuman != "" || !strings.Contains(d.NeedsHuman, w.human) {
		t.Errorf("a person is asked for %q, want %q", d.NeedsHuman, w.human)
	}
	if notices := strings.Join(d.Notices, "\n"); w.notice == "" && notices != "" || !strings.Contains(notices, w.notice) {
		t.Errorf("notices are %q, want %q", notices, w.notice)
	}
	if d.Why == "" || strings.Contains(d.Why, "\n") || !strings.Contains(d.Why, w.why) {
		t.Errorf("why is %q, want %q", d.Why, w.why)
	}
}

func rules(r ...decide.Rule) []decide.Rule { return r }
