package decide_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"encoding/json"

	"fleet/evaluator/plan"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// random draws a declaration and a state that may differ in everything.
func random(r *rand.Rand) decide.Input {
	hosts := []string{"a", "b", "c", "d"}
	in := shared(hosts[:r.IntN(5)]...)
	coin := func() bool { return r.IntN(4) == 0 }
	for _, host := range append(hosts, "gone") {
		switch r.IntN(6) {
		case 0:
			in.Hosts[host] = decide.Host{}
		case 1:
			in.Hosts[host] = decide.Host{Key: key(host + "2")}
		case 2:
			in.Hosts[host] = decide.Host{Key: key(host + "2"), Others: []string{key(host)}}
		}
		switch r.IntN(6) {
		case 0:
			delete(in.Entry.Owners, host)
		case 1:
			in.Entry.Owners[host] = copyFor(host)
		case 2:
			c := copyFor(host)
			c.Gen = genB
			in.Entry.Owners[host] = c
		case 3:
			if coin() {
				in = broken(in, "owners/"+host+".json", host, errors.New("damaged"))
			}
		}
	}
	in.Spec.RegenerateOnOwnerAdded, in.Spec.RegenerateOnOwnerRemoved = coin(), coin()
	in.Spec.Generator.Dependencies = map[string]string{"ca": "shared/ca"}
	in.Deps["shared/ca"], in.Entry.Meta.Deps = genA, map[string]secret.Gen{"shared/ca": genA}
	if coin() {
		in.Deps["shared/ca"] = genB
	}
	if coin() {
		in.Spec.Generator.Data = json.RawMessage(`{"size":1}`)
	}
	if coin() {
		other := "other"
		in.Spec.Generator.Seed = &other
		in.Spec.OnGeneratorChange = []string{"notice", "regenerate"}[r.IntN(2)]
	}
	if coin() {
		in.Entry.Meta.ExpiresAt = new(time.Time)
	}
	if coin() {
		in.Spec.Parts["more"] = plan.SecretPart{Encrypted: true}
	}
	if coin() {
		in.Spec.Generator = nil
	}
	if coin() {
		in.Entry.Meta.Origin = secret.Set
	}
	if r.IntN(8) == 0 {
		in = broken(in, "meta.json", "", errors.New("damaged"))
	}
	if r.IntN(8) == 0 {
		in.Entry = nil
	}
	return in
}

// apply is what an engine does, where nothing fails.
func apply(in decide.Input, d decide.Decision) decide.Input {
	if in.Entry == nil && !d.Regenerate {
		return in
	}
	e := state.Entry{ID: in.ID, Owners: map[string]secret.Owner{}}
	if in.Entry != nil {
		e = *in.Entry
		e.Owners = maps.Clone(e.Owners)
	}
	if d.Regenerate {
		g := in.Spec.Generator
		e = state.Entry{ID: in.ID, Owners: map[string]secret.Owner{}, Meta: secret.Meta{
			Gen: genA, Origin: secret.Generated, GenerationData: g.Data, Parts: map[string]secret.MetaPart{}, Deps: map[string]secret.Gen{},
		}}
		if g.Seed != nil {
			e.Meta.Seed = *g.Seed
		}
		for part, p := range in.Spec.Parts {
			e.Meta.Parts[part] = secret.MetaPart{Encrypted: p.Encrypted}
		}
		for _, id := range g.Dependencies {
			e.Meta.Deps[id] = in.Deps[id]
		}
	}
	var faults []error
	for _, fault := range e.Faults() {
		if fault.Owner == "" || !contains(d.Wrap, fault.Owner) && !contains(d.Remove, fault.Owner) {
			faults = append(faults, fault)
		}
	}
	e.Err = errors.Join(faults...)
	for _, host := range d.Wrap {
		e.Owners[host] = secret.Owner{Gen: e.Meta.Gen, Key: in.Hosts[host].Key}
	}
	for _, host := range d.Remove {
		delete(e.Owners, host)
	}
	in.Entry, in.ForceRegenerate = &e, false
	return in
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// readers are the hosts that can open the value.
func readers(in decide.Input) int {
	n := 0
	if in.Entry == nil {
		return 0
	}
	for host, c := range in.Entry.Owners {
		h := in.Hosts[host]
		if damaged := contains(owners(in.Entry.Faults()), host); !damaged && c.Gen == in.Entry.Meta.Gen && (h.Key == "" || h.Key == c.Key || contains(h.Others, c.Key)) {
			n++
		}
	}
	return n
}

func owners(faults []*state.BrokenError) []string {
	var hosts []string
	for _, f := range faults {
		hosts = append(hosts, f.Owner)
	}
	return hosts
}

// properties are what holds for every decision.
func properties(in decide.Input) error {
	d := decide.Decide(in)
	if len(d.Rules) == 0 || d.Why == "" {
		return fmt.Errorf("it says nothing: %+v", d)
	}
	if (d.NeedsHuman == "") != (d.Command == "") || !strings.Contains(d.NeedsHuman, d.Command) {
		return fmt.Errorf("a person is asked for %q, with the command %q", d.NeedsHuman, d.Command)
	}
	for _, host := range d.Wrap {
		if in.Hosts[host].Key == "" || !contains(in.Owners, host) {
			return fmt.Errorf("a copy for %s, which has no key or is no owner: %+v", host, d)
		}
	}
	if len(d.Wrap) > 0 && !d.Regenerate && len(d.Sources) == 0 && len(in.Entry.Meta.Encrypted()) > 0 {
		return fmt.Errorf("nobody can make the copies: %+v", d)
	}
	after := apply(in, d)
	if readers(in) > 0 && readers(after) == 0 {
		return fmt.Errorf("nobody can read the value any more: %+v", d)
	}
	again := decide.Decide(after)
	if again.Changes() {
		return fmt.Errorf("first %+v\nthen %+v", d, again)
	}
	if d.Changes() && d.NeedsHuman == "" && again.NeedsHuman != "" {
		return fmt.Errorf("what was done needs a person afterwards: first %+v\nthen %+v", d, again)
	}
	return nil
}

func TestDecidingAgainAfterADecisionChangesNothing(t *testing.T) {
	for seed := range uint64(200_000) {
		in := random(rand.New(rand.NewPCG(seed, 1)))
		if in.Entry != nil && in.Entry.Meta.ExpiresAt != nil && in.Spec.Generator == nil {
			in.Now = time.Time{} // a manual value stays expired
		}
		if err := properties(in); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		if err := properties(random(rand.New(rand.NewPCG(a, b)))); err != nil {
			t.Error(err)
		}
	})
}
