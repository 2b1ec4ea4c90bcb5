package secretsgen

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"fleet/evaluator/plan"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// declaration is what a fleet declares of one secret.
type declaration struct {
	id     secret.ID
	spec   *plan.Secret
	owners []string
	// deps are the secrets that its generator reads, by the name that it has for them.
	deps map[string]secret.ID
}

// declarations are those that one operation needs.
type declarations struct {
	secrets map[secret.ID]*declaration
	// hosts are those whose own secrets are known; failed those whose are not, with the reasons.
	hosts  map[string]bool
	failed map[string]error
}

// UnknownError says that there is no such secret, neither declared nor in the state.
type UnknownError struct {
	ID secret.ID
	// Similar are ids that may have been meant.
	Similar []secret.ID
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("find secret %q: neither declared nor in the state", e.ID)
}

// Hint names what may have been meant.
func (e *UnknownError) Hint() string {
	if len(e.Similar) == 0 {
		return "fleet secrets status lists all secrets"
	}
	var names []string
	for _, id := range e.Similar {
		names = append(names, id.String())
	}
	return "did you mean " + strings.Join(names, " or ") + "? fleet secrets status lists all secrets"
}

func newDeclarations(p *plan.Plan) *declarations {
	d := &declarations{secrets: map[secret.ID]*declaration{}, hosts: map[string]bool{}, failed: map[string]error{}}
	for name, spec := range p.SharedSecrets {
		d.add(secret.ID{Scope: secret.Shared, Name: name}, spec, spec.Owners)
	}
	return d
}

func (d *declarations) add(id secret.ID, spec plan.Secret, owners []string) {
	one := &declaration{id: id, spec: &spec, owners: slices.Sorted(slices.Values(owners)), deps: map[string]secret.ID{}}
	if spec.Generator != nil {
		for alias, text := range spec.Generator.Dependencies {
			// The plan was validated; what is no id all the same names no secret, and is said to be missing.
			dep, err := secret.ParseID(text)
			if err != nil {
				dep = secret.ID{Name: text}
			}
			one.deps[alias] = dep
		}
	}
	d.secrets[id] = one
}

// addSpecs takes what hosts declare.
func (d *declarations) addSpecs(specs map[string]plan.Specs) {
	for host, s := range specs {
		d.hosts[host] = true
		for name, spec := range s.Secrets {
			d.add(secret.ID{Scope: secret.OfHost(host), Name: name}, spec, []string{host})
		}
	}
}

// load evaluates the declarations of these hosts, as far as they are not known, and of the hosts whose secrets theirs depend on.
func (e *Engine) load(ctx context.Context, d *declarations, hosts []string) error {
	for {
		var missing []string
		for _, host := range hosts {
			_, inPlan := e.Plan.Hosts[host]
			if inPlan && !d.hosts[host] && d.failed[host] == nil && !slices.Contains(missing, host) {
				missing = append(missing, host)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		slices.Sort(missing)
		specs, failed, err := e.Specs(ctx, missing)
		if err != nil {
			return fmt.Errorf("evaluate the secrets of %d hosts: %w", len(missing), err)
		}
		d.addSpecs(specs)
		for _, host := range missing {
			if err := failed[host]; err != nil {
				d.failed[host] = err
			} else if !d.hosts[host] {
				d.failed[host] = fmt.Errorf("evaluate the secrets of %q: nothing came back", host)
			}
		}
		hosts = d.depHosts()
	}
}

// depHosts are the hosts of the secrets that declared ones depend on.
func (d *declarations) depHosts() []string {
	var hosts []string
	for _, one := range d.secrets {
		for _, dep := range one.deps {
			if host, ok := dep.Scope.Host(); ok && d.secrets[dep] == nil {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// known says whether it is known of a secret that nothing declares it.
func (d *declarations) known(p *plan.Plan, id secret.ID) bool {
	host, ok := id.Scope.Host()
	if !ok {
		return true
	}
	_, inPlan := p.Hosts[host]
	return !inPlan || d.hosts[host]
}

// hostsOf are the hosts whose declarations a selection needs.
func (s Selection) hostsOf(p *plan.Plan) []string {
	switch {
	case s.Secrets != nil:
		var hosts []string
		for _, id := range s.Secrets {
			if host, ok := id.Scope.Host(); ok {
				hosts = append(hosts, host)
			}
		}
		return hosts
	case s.Hosts != nil:
		return s.Hosts
	}
	return sortedKeys(p.Hosts)
}

// selected lists what a selection names, declared or in the state, sorted. A secret that nobody knows is an [*UnknownError].
func (d *declarations) selected(s Selection, tree *state.Tree) ([]secret.ID, error) {
	all := map[secret.ID]bool{}
	for id := range d.secrets {
		all[id] = true
	}
	for id := range tree.Secrets {
		all[id] = true
	}
	for _, id := range s.Secrets {
		if host, ok := id.Scope.Host(); !all[id] && !(ok && d.failed[host] != nil) {
			return nil, &UnknownError{ID: id, Similar: similar(id, all)}
		}
	}
	var ids []secret.ID
	for id := range all {
		if (s.Secrets == nil || slices.Contains(s.Secrets, id)) && (s.Hosts == nil || d.ownedBy(id, tree, s.Hosts)) {
			ids = append(ids, id)
		}
	}
	return sortIDs(ids), nil
}

func (d *declarations) ownedBy(id secret.ID, tree *state.Tree, hosts []string) bool {
	if host, ok := id.Scope.Host(); ok {
		return slices.Contains(hosts, host)
	}
	is := func(owner string) bool { return slices.Contains(hosts, owner) }
	if one := d.secrets[id]; one != nil && slices.ContainsFunc(one.owners, is) {
		return true
	}
	entry := tree.Secrets[id]
	return entry != nil && slices.ContainsFunc(sortedKeys(entry.Owners), is)
}

// similar lists a few secrets of the same name, or of nearly the same id.
func similar(id secret.ID, all map[secret.ID]bool) []secret.ID {
	const most = 3
	var ids []secret.ID
	for other := range all {
		if other.Name == id.Name || strings.EqualFold(other.String(), id.String()) || other.Scope == id.Scope && strings.HasPrefix(other.Name, id.Name) {
			ids = append(ids, other)
		}
	}
	ids = sortIDs(ids)
	return ids[:min(most, len(ids))]
}

func sortIDs(ids []secret.ID) []secret.ID {
	slices.SortFunc(ids, func(a, b secret.ID) int { return strings.Compare(a.String(), b.String()) })
	return ids
}

// order sorts secrets so that each comes after those that it depends on, and otherwise by id. Those that depend on themselves are in the second
// result: evaluation refuses them, so they are only there where a plan was written by hand.
func (d *declarations) order() (ordered, cyclic []secret.ID) {
	const (
		open = iota + 1
		done
		bad
	)
	marks := map[secret.ID]int{}
	var visit func(id secret.ID) bool
	visit = func(id secret.ID) bool {
		switch marks[id] {
		case open, bad:
			return false
		case done:
			return true
		}
		marks[id] = open
		ok := true
		for _, alias := range sortedKeys(d.secrets[id].deps) {
			if dep := d.secrets[id].deps[alias]; d.secrets[dep] != nil && !visit(dep) {
				ok = false
			}
		}
		if !ok {
			marks[id] = bad
			cyclic = append(cyclic, id)
			return false
		}
		marks[id] = done
		ordered = append(ordered, id)
		return true
	}
	for _, id := range sortIDs(slices.Collect(maps.Keys(d.secrets))) {
		visit(id)
	}
	return ordered, cyclic
}

// circleError says that a secret is made from itself, or from one that is: no value can come first.
type circleError struct {
	// through leads from the secret to the circle, which is empty where the secret is in it; circle begins and ends with the same secret.
	through, circle []secret.ID
}

func (e *circleError) Error() string {
	text := "it is made from itself: "
	if len(e.through) > 0 {
		text = fmt.Sprintf("it is made from %s, which is made from itself: ", e.circle[0])
	}
	for i, id := range e.circle {
		if i > 0 {
			text += " → "
		}
		text += id.String()
	}
	return text
}

// Hint says what to change.
func (e *circleError) Hint() string { return "take one of these out of the dependencies of another" }

// circle finds the circle that one of the cyclic secrets leads to.
func (d *declarations) circle(id secret.ID, cyclic map[secret.ID]bool) *circleError {
	var way []secret.ID
	for !slices.Contains(way, id) {
		way = append(way, id)
		deps := slices.DeleteFunc(sortIDs(slices.Collect(maps.Values(d.secrets[id].deps))), func(dep secret.ID) bool { return !cyclic[dep] })
		if len(deps) == 0 {
			return &circleError{circle: way} // cannot be: what is cyclic depends on what is
		}
		id = deps[0]
	}
	begin := slices.Index(way, id)
	return &circleError{through: way[:begin], circle: append(slices.Clone(way[begin:]), id)}
}
