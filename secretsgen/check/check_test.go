package check_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/check"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// want is a finding, by parts of its texts.
type want struct {
	id, host, reason, mend string
	warning                bool
}

// finds fails unless there is a finding for each of wants and no other.
func finds(t *testing.T, got []check.Finding, wants ...want) {
	t.Helper()
	var unexpected []string
	for _, f := range got {
		if f.Reason == "" || f.Mend == "" || strings.Contains(f.Reason+f.Mend, "hunter2") {
			t.Errorf("it says too little, or too much: %+v", f)
		}
		found := false
		for i, w := range wants {
			id := ""
			if f.ID != (secret.ID{}) {
				id = f.ID.String()
			}
			if w.reason != "" && id == w.id && f.Host == w.host && f.Warning == w.warning && strings.Contains(f.Reason, w.reason) && strings.Contains(f.Mend, w.mend) {
				found, wants[i].reason = true, ""
				break
			}
		}
		if !found {
			unexpected = append(unexpected, fmt.Sprintf("%+v", f))
		}
	}
	for _, w := range wants {
		if w.reason != "" {
			t.Errorf("not found: %+v", w)
		}
	}
	if len(unexpected) > 0 {
		t.Errorf("found: %s", strings.Join(unexpected, "\n"))
	}
}

// whole is a fleet in which nothing is wrong.
func whole(t *testing.T) *fleet {
	t.Helper()
	f := newFleet(t, "a", "b", "c")
	f.declare("shared/ca", spec("a"), "a line\n")
	leaf := spec("a", "b")
	leaf.Generator.Dependencies = map[string]string{"ca": "shared/ca"}
	f.declare("shared/leaf", leaf, "a line\n")
	f.declare("host/c/own", spec(), "a line\n")
	return f
}

func TestNothingIsFoundWhereNothingIsWrong(t *testing.T) {
	finds(t, whole(t).check())
}

func TestEveryFindingNamesSecretHostReasonAndRemedy(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(f *fleet)
		wants   []want
	}{
		"no value": {func(f *fleet) { f.remove("secrets/host/c/own") },
			[]want{{"host/c/own", "c", "it has no value yet", "fleet secrets sync", false}}},
		"no value, and a person gives it": {func(f *fleet) {
			f.remove("secrets/host/c/own")
			s := spec()
			s.Generator = nil
			f.plan.Records["c"].Specs.Secrets["own"] = s
		}, []want{{"host/c/own", "c", "it has no value", "fleet secrets set host/c/own", false}}},
		"a part is missing": {func(f *fleet) { f.plan.SharedSecrets["leaf"].Parts["more"] = plan.SecretPart{Encrypted: true} },
			[]want{{"shared/leaf", "a, b", `part "more" is missing`, "fleet secrets sync", false}}},
		"a part is public": {func(f *fleet) { f.plan.SharedSecrets["leaf"].Parts["public"] = plan.SecretPart{Encrypted: true} },
			[]want{{"shared/leaf", "a, b", "is public, and is declared as encrypted", "fleet secrets sync", false}}},
		"undeclared": {func(f *fleet) { delete(f.plan.SharedSecrets, "leaf") },
			[]want{{"shared/leaf", "", "nothing declares it", "fleet secrets prune", true}}},
		"undeclared, of a host": {func(f *fleet) { delete(f.plan.Records["c"].Specs.Secrets, "own") },
			[]want{{"host/c/own", "c", "nothing declares it", "fleet secrets prune", true}}},
		"of a host that is gone": {func(f *fleet) {
			delete(f.plan.Hosts, "c")
			delete(f.plan.Records, "c")
		}, []want{{"host/c/own", "c", "nothing declares it", "fleet secrets prune", true}}},
		"without the specs of a host": {func(f *fleet) { delete(f.plan.Records, "c") },
			[]want{{"", "c", "were not checked", "fleet secrets status", true}}},
		"an owner more": {func(f *fleet) {
			s := f.plan.SharedSecrets["ca"]
			s.Owners = []string{"a", "b"}
			f.plan.SharedSecrets["ca"] = s
		}, []want{{"shared/ca", "b", "the host is an owner, and has no copy", "fleet secrets sync", false}}},
		"an owner without a key more": {func(f *fleet) {
			s := f.plan.SharedSecrets["ca"]
			s.Owners = []string{"a", "b"}
			f.plan.SharedSecrets["ca"] = s
			f.remove("secrets/shared/leaf/owners/b.json")
			delete(f.pins, "b")
		}, []want{{"shared/ca", "b", "has no pinned key", "host-key scan b", true}, {"shared/leaf", "b", "has no pinned key", "host-key scan b", true}}},
		"an owner less": {func(f *fleet) {
			s := f.plan.SharedSecrets["leaf"]
			s.Owners = []string{"b"}
			f.plan.SharedSecrets["leaf"] = s
		}, []want{{"shared/leaf", "a", "the host is no owner, and has a copy", "fleet secrets sync", false}}},
		"a copy of another generation": {func(f *fleet) {
			o := f.load().Secrets[secret.ID{Scope: secret.Shared, Name: "leaf"}].Owners["b"]
			o.Gen = "33333333333333333333333333333333"
			f.owner("shared/leaf", "b", o)
		}, []want{{"shared/leaf", "b", "is of generation 33333333333333333333333333333333, and meta.json is of", "fleet secrets sync", false}}},
		"an older meta.json": {func(f *fleet) {
			id := secret.ID{Scope: secret.OfHost("c"), Name: "own"}
			old, err := os.ReadFile(filepath.Join(f.folder(), "secrets/host/c/own/owners/c.json"))
			if err != nil {
				f.t.Fatal(err)
			}
			f.put(f.value(id, spec(), "a line\n", "c"))
			f.write("secrets/host/c/own/owners/c.json", string(old))
		}, []want{{"host/c/own", "c", "is of generation", "", false}, {"host/c/own", "c", "no host can make a copy for c", "fleet secrets regenerate host/c/own", false}}},
		"another key": {func(f *fleet) { f.pins["b"] = []string{newKey(f.t)} },
			[]want{{"shared/leaf", "b", "and SHA256:", "fleet secrets sync", false}}},
		"another host's file": {func(f *fleet) {
			f.owner("shared/leaf", "b", f.load().Secrets[secret.ID{Scope: secret.Shared, Name: "leaf"}].Owners["a"])
		}, []want{
			{"shared/leaf", "b", "its copy is encrypted to the key", "fleet secrets sync", false},
			{"shared/leaf", "b", "it was copied", "fleet secrets regenerate shared/leaf", false},
		}},
		"a foreign reader": {func(f *fleet) {
			id := secret.ID{Scope: secret.Shared, Name: "leaf"}
			e := f.load().Secrets[id]
			key := e.Owners["b"].Key
			o := f.sealed(seal.Context{Fleet: "default", ID: id, Part: "secret", Gen: e.Meta.Gen, Seq: 1}, nil, secret.NewPlain(nil), e.Meta.Gen, newKey(f.t))
			o.Key = key
			f.owner("shared/leaf", "b", o)
		}, []want{{"shared/leaf", "b", "not encrypted to the host's pinned key alone: its reader is another key", "fleet secrets regenerate shared/leaf", false}}},
		"plaintext": {func(f *fleet) {
			o := f.load().Secrets[secret.ID{Scope: secret.Shared, Name: "leaf"}].Owners["b"]
			o.Parts = map[string]secret.SealedPart{"secret": {Armor: "hunter2", SHA256: secret.Checksum("hunter2")}}
			f.owner("shared/leaf", "b", o)
		}, []want{{"shared/leaf", "b", `part "secret" is no sealed file`, "fleet secrets regenerate shared/leaf", false}}},
		"a truncated file": {func(f *fleet) { cut(f, "secrets/shared/leaf/owners/b.json") },
			[]want{{"shared/leaf", "b", "owners/b.json: decode owner file: unexpected EOF", "git checkout", false}}},
		"a conflict": {func(f *fleet) { f.write("secrets/shared/leaf/meta.json", "<<<<<<< HEAD\n=======\n>>>>>>> x\n") },
			[]want{{"shared/leaf", "a, b", "conflict markers", "fleet secrets resolve --ours shared/leaf", false}}},
		"another public value": {func(f *fleet) { f.write("secrets/shared/leaf/public/public", "another line\n") },
			[]want{{"shared/leaf", "a, b", "not the value that meta.json commits to", "git checkout", false}}},
		"other arguments": {func(f *fleet) { f.plan.SharedSecrets["ca"].Generator.Data = json.RawMessage(`{"size":64}`) },
			[]want{{"shared/ca", "a", "its generator is called with other arguments (size)", "fleet secrets sync", false}}},
		"another dependency": {func(f *fleet) { f.put(f.value(secret.ID{Scope: secret.Shared, Name: "ca"}, spec(), "new\n", "a")) },
			[]want{{"shared/leaf", "a, b", "shared/ca, which it was made from, has another value", "fleet secrets sync", false}}},
		"an unknown dependency": {func(f *fleet) { delete(f.plan.SharedSecrets, "ca") },
			[]want{{"shared/leaf", "a, b", "made from shared/ca, which nothing declares", "declare shared/ca", false}, {"shared/ca", "", "nothing declares it", "prune", true}}},
		"a circle": {func(f *fleet) {
			f.plan.SharedSecrets["ca"].Generator.Dependencies = map[string]string{"leaf": "shared/leaf"}
		}, []want{
			{"shared/ca", "a", "it is made from itself: shared/ca → shared/leaf → shared/ca", "take one of them out", false},
			{"shared/ca", "a", "it is made from shared/leaf now", "fleet secrets sync", false},
		}},
		"expired": {func(f *fleet) {
			e := f.load().Secrets[secret.ID{Scope: secret.Shared, Name: "leaf"}]
			e.Meta.ExpiresAt = &f.now
			f.put(e)
		}, []want{{"shared/leaf", "a, b", "it expired on 2026-11-01", "fleet secrets sync", false}}},
		"no clock": {func(f *fleet) {
			e := f.load().Secrets[secret.ID{Scope: secret.Shared, Name: "leaf"}]
			e.Meta.ExpiresAt = new(time.Time)
			f.put(e)
			f.now = time.Time{}
		}, []want{{"", "", "was not judged", "fleet secrets status", true}}},
		"cloned machines": {func(f *fleet) { f.pins["c"] = append(f.pins["c"], f.pins["a"]...) },
			[]want{{"", "a", "is pinned for c, too", "host-key accept a", false}, {"", "c", "is pinned for a, too", "host-key accept c", false}}},
		"two pins that differ": {func(f *fleet) {
			h := f.plan.Hosts["a"]
			h.Deploy.HostKeys = []string{f.pins["a"][0] + " a comment"}
			f.plan.Hosts["a"] = h
			f.pins["a"] = []string{newKey(f.t)}
		}, []want{{"", "a", "its deploy.hostKeys has SHA256:", "fleet secrets host-key scan a", false}}},
		"a key in the plan alone": {func(f *fleet) {
			h := f.plan.Hosts["a"]
			h.Deploy.HostKeys = f.pins["a"]
			f.plan.Hosts["a"] = h
			delete(f.pins, "a")
		}, nil},
		"keys of another type": {func(f *fleet) { f.pins["c"] = []string{"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY="} },
			[]want{{"", "c", "encrypted to none of its pinned keys", "host-key scan c", true}}},
		"a stray file": {func(f *fleet) { f.write("secrets/shared/leaf/notes.txt", "x"); f.write("secrets/README", "x") },
			[]want{{"shared/leaf", "a, b", "does not belong here", "remove it", true}, {"", "", "secrets/README in the state is no secret", "remove it", true}}},
		"a private key as a public part": {func(f *fleet) {
			f.declare("shared/key", spec("a"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
		}, []want{{"shared/key", "a", "it holds a private key in PEM", "fleet secrets regenerate shared/key", false}, {"shared/key", "a", "in the state holds a private key in PEM", "git's history", false}}},
		"an identity of age somewhere": {func(f *fleet) { f.write("hosts/notes.txt", "AGE-SECRET-KEY-1XYZ") },
			[]want{{"", "", "hosts/notes.txt in the state holds an identity of age", "git's history", false}}},
		"a private key in base64": {func(f *fleet) { f.declare("shared/key", spec("a"), "\x00-----BEGIN PRIVATE KEY-----") },
			[]want{{"shared/key", "a", "it holds a private key in PEM", "", false}, {"shared/key", "a", "in the state holds a private key in PEM", "regenerate", false}}},
		"a private key in generation data": {func(f *fleet) {
			s := f.plan.SharedSecrets["ca"]
			s.Generator.Data = json.RawMessage(`{"key":"cache-1:` + strings.Repeat("A", 86) + `=="}`)
			f.declare("shared/ca", s, "x\n")
			f.remove("secrets/shared/leaf")
			delete(f.plan.SharedSecrets, "leaf")
		}, []want{{"shared/ca", "a", "holds a secret key of Nix", "regenerate", false}}},
		"no owners any more": {func(f *fleet) {
			s := f.plan.SharedSecrets["leaf"]
			s.Owners = []string{}
			f.plan.SharedSecrets["leaf"] = s
		}, []want{{"shared/leaf", "", "no host owns it any more", "prune", false}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := whole(t)
			c.breakIt(f)
			finds(t, f.check(), c.wants...)
		})
	}
}

func cut(f *fleet, name string) {
	file := filepath.Join(f.folder(), name)
	data, err := os.ReadFile(file)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(name, string(data[:len(data)/2]))
}

func TestPublicPartsMatchTheirTypes(t *testing.T) {
	end := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		part    plan.SecretPart
		value   string
		expires time.Time
		want    []want
	}{
		"WireGuard":            {plan.SecretPart{Type: plan.TypeWireGuardKey}, wireGuardKey(), time.Time{}, nil},
		"no WireGuard":         {plan.SecretPart{Type: plan.TypeWireGuardKey}, "c2hvcnQ=\n", time.Time{}, []want{{"shared/x", "a", "no key of WireGuard", "regenerate shared/x", false}}},
		"certificate":          {plan.SecretPart{Type: plan.TypeX509}, certificate(t, end), end, nil},
		"no expiry":            {plan.SecretPart{Type: plan.TypeX509}, certificate(t, end), time.Time{}, []want{{"shared/x", "a", "knows of no expiry", "regenerate shared/x", true}}},
		"a later expiry":       {plan.SecretPart{Type: plan.TypeX509}, certificate(t, end), end.Add(time.Minute), []want{{"shared/x", "a", "says it expires later", "regenerate shared/x", false}}},
		"an earlier expiry":    {plan.SecretPart{Type: plan.TypeX509}, certificate(t, end), end.Add(-time.Minute), []want{{"shared/x", "a", "says it expires earlier", "regenerate shared/x", true}}},
		"no certificate":       {plan.SecretPart{Type: plan.TypeX509}, "x\n", end, []want{{"shared/x", "a", "not of type x509", "regenerate shared/x", false}}},
		"pattern":              {plan.SecretPart{Type: plan.TypeRegex, Pattern: "v[0-9]+"}, "v1\n", time.Time{}, nil},
		"another than pattern": {plan.SecretPart{Type: plan.TypeRegex, Pattern: "v[0-9]+"}, "v1 \n", time.Time{}, []want{{"shared/x", "a", "does not match", "regenerate shared/x", false}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, "a")
			s := spec("a")
			s.Parts = maps.Clone(s.Parts)
			s.Parts["public"] = c.part
			e := f.declare("shared/x", s, c.value)
			if !c.expires.IsZero() {
				e.Meta.ExpiresAt = &c.expires
				f.put(e)
			}
			finds(t, f.check(), c.want...)
		})
	}
}

func TestPinsThatCannotBeReadAreNamed(t *testing.T) {
	f := newFleet(t, "a")
	got := check.Run(check.Input{Plan: f.plan, Tree: f.load(), PinErrors: map[string]error{"a": errors.New("it is empty")}, Now: f.now})
	finds(t, got, want{"", "a", "its pinned keys cannot be read: it is empty", "fleet secrets host-key scan a", false})
}
