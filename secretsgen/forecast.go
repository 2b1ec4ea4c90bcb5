package secretsgen

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"time"

	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// view is the state, the declarations and the keys that one operation works with.
type view struct {
	*Engine
	limits Limits
	tree   *state.Tree
	decls  *declarations
	keys   *keyring
	// keysOfHosts is keys as decisions see it.
	keysOfHosts map[string]decide.Host
	now         time.Time
	// order are the declared secrets, dependencies first.
	order  []secret.ID
	cyclic map[secret.ID]bool
	// force are the secrets that get a new value whatever the state is.
	force map[secret.ID]bool
}

// open reads the state and evaluates what a selection needs.
func (e *Engine) open(ctx context.Context, hosts []string) (*view, error) {
	tree, err := e.State.Load()
	if err != nil {
		return nil, err
	}
	v := &view{Engine: e, limits: e.Limits.withDefaults(), tree: tree, decls: newDeclarations(e.Plan), now: e.Now(), force: map[secret.ID]bool{}}
	if err := e.load(ctx, v.decls, hosts); err != nil {
		return nil, err
	}
	v.keys = newKeyring(e, tree)
	v.keysOfHosts = v.keys.decideHosts()
	v.arrange()
	return v, nil
}

// arrange orders the declarations; it is called again when there are more.
func (v *view) arrange() {
	var cyclic []secret.ID
	v.order, cyclic = v.decls.order()
	v.cyclic = map[secret.ID]bool{}
	for _, id := range cyclic {
		v.cyclic[id] = true
	}
}

// decide decides on one secret. gen is the generation of a value, "" where there is none.
func (v *view) decide(id secret.ID, gen func(secret.ID) secret.Gen) decide.Decision {
	in := decide.Input{ID: id, Entry: v.tree.Secrets[id], Hosts: v.keysOfHosts, Now: v.now, ForceRegenerate: v.force[id]}
	if one := v.decls.secrets[id]; one != nil {
		in.Spec, in.Owners = one.spec, one.owners
		in.Deps = make(map[string]secret.Gen, len(one.deps))
		for _, dep := range one.deps {
			if current := gen(dep); current != "" {
				in.Deps[dep.String()] = current
			}
		}
	}
	return decide.Decide(in)
}

// gen is the generation of the value that the state has of a secret, "" where there is none.
func (v *view) gen(id secret.ID) secret.Gen {
	if entry := v.tree.Secrets[id]; entry != nil {
		return entry.Meta.Gen
	}
	return ""
}

// forecast decides on all declared secrets as if the selected ones, and those that have no value, were carried out in turn: what depends on a
// value that is about to be made is made anew as well.
func (v *view) forecast(selected []secret.ID) (map[secret.ID]decide.Decision, error) {
	in := make(map[secret.ID]bool, len(selected))
	for _, id := range selected {
		in[id] = true
	}
	made := map[secret.ID]secret.Gen{}
	gen := func(id secret.ID) secret.Gen { return cmp.Or(made[id], v.gen(id)) }
	decisions := make(map[secret.ID]decide.Decision, len(v.order))
	for _, id := range v.order {
		d := v.decide(id, gen)
		decisions[id] = d
		if makes(d) && (in[id] || v.tree.Secrets[id] == nil) {
			next, err := secret.NewGen(rand.Reader)
			if err != nil {
				return nil, err
			}
			made[id] = next
		}
	}
	return decisions, nil
}

// makes says whether a decision leads to a new value without a person.
func makes(d decide.Decision) bool { return d.Regenerate && len(d.Waits) == 0 && len(d.Wrap) > 0 }

// needed adds to the selected secrets those that they are made from and that have no value, so that these can be made.
func (v *view) needed(ids []secret.ID, decisions map[secret.ID]decide.Decision) []secret.ID {
	in := map[secret.ID]bool{}
	var add func(id secret.ID)
	add = func(id secret.ID) {
		if in[id] {
			return
		}
		in[id] = true
		one := v.decls.secrets[id]
		if one == nil || !decisions[id].Regenerate {
			return
		}
		for _, dep := range one.deps {
			if v.decls.secrets[dep] != nil && v.tree.Secrets[dep] == nil {
				add(dep)
			}
		}
	}
	for _, id := range ids {
		add(id)
	}
	return sortIDs(slices.Collect(maps.Keys(in)))
}

// actionOf names what a decision does.
func actionOf(entry *state.Entry, d decide.Decision) Action {
	switch {
	case d.Regenerate && entry == nil:
		return ActionGenerate
	case d.Regenerate:
		return ActionRegenerate
	case len(d.Wrap) > 0:
		return ActionWrap
	case len(d.Remove) > 0:
		return ActionRemove
	}
	return ActionNone
}

func ruleNumbers(rules []decide.Rule) []int {
	numbers := make([]int, len(rules))
	for i, rule := range rules {
		numbers[i] = int(rule)
	}
	return numbers
}

// hostsNamed are the hosts that decisions and declarations of these secrets speak of, sorted.
func (v *view) hostsNamed(ids []secret.ID) []string {
	names := map[string]bool{}
	for _, id := range ids {
		if one := v.decls.secrets[id]; one != nil {
			for _, owner := range one.owners {
				names[owner] = true
			}
		}
	}
	return sortedKeys(names)
}

// specsProblems are the hosts whose declarations could not be evaluated.
func (v *view) specsProblems() []HostProblem {
	var problems []HostProblem
	for _, host := range sortedKeys(v.decls.failed) {
		err := v.decls.failed[host]
		problems = append(problems, HostProblem{Host: host, Kind: KindSpecs, Message: err.Error(), Hint: hintOf(err)})
	}
	return problems
}

// waitsFor words that a secret cannot be made before others.
func waitsFor(waits []string) error {
	return fmt.Errorf("it is made from %s, which has no value yet", joinNames(waits))
}

func joinNames(names []string) string {
	const most = 5
	text := ""
	for i, name := range names {
		switch {
		case i == most:
			return fmt.Sprintf("%s and %d more", text, len(names)-most)
		case i > 0:
			text += ", "
		}
		text += name
	}
	return text
}
