package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// entry looks at a secret of the state, declared or not; d is nil for one that nothing declares.
func (c *checking) entry(id secret.ID, d *declaration) {
	e := c.Tree.Secrets[id]
	for _, fault := range e.Faults() {
		f := Finding{ID: id, Host: fault.Owner, Reason: fmt.Sprintf("%s: %v", fault.Path, fault.Err), Mend: fault.Hint(), Warning: fault.Stray()}
		if f.Host == "" {
			f.Host = hostOf(id, d)
		}
		c.fail(f)
	}
	if d == nil {
		if !c.unjudged(id) {
			c.warn(Finding{ID: id, Host: hostOf(id, d), Reason: "the state has it, and nothing declares it", Mend: mendPrune})
		}
		return
	}
	c.copies(e, d)
	c.public(e, d)
}

// unjudged says whether a secret belongs to a host whose own declarations are not known.
func (c *checking) unjudged(id secret.ID) bool {
	host, own := id.Scope.Host()
	_, exists := c.Plan.Hosts[host]
	return own && exists && c.Plan.Records[host].Specs == nil
}

// hostOf are the hosts that a finding about a whole secret is about.
func hostOf(id secret.ID, d *declaration) string {
	if host, ok := id.Scope.Host(); ok {
		return host
	}
	if d == nil {
		return ""
	}
	return list(d.owners)
}

// declared asks what would have to be done about a declared secret. What is wrong with the copies of single owners was said already.
func (c *checking) declared(id secret.ID, d *declaration) {
	e := c.Tree.Secrets[id]
	if e != nil && unusable(e) {
		return // that was said
	}
	decision := decide.Decide(decide.Input{ID: id, Spec: &d.spec, Owners: d.owners, Entry: e, Hosts: c.hosts, Deps: c.current(d), Now: c.Now})
	for _, host := range decision.Pending {
		c.warn(Finding{ID: id, Host: host, Reason: "the host has no pinned key, so nothing is encrypted to it yet", Mend: mendScan + host})
	}
	mend := mendSync
	if decision.NeedsHuman != "" {
		mend = decision.NeedsHuman
	}
	waits := len(decision.Pending) == len(d.owners) && len(d.owners) > 0
	if e == nil && waits && decision.NeedsHuman == "" {
		return // the value is made once there is a key, which was said
	}
	for _, reason := range decision.Reasons {
		nobody := len(decision.Wrap) == 0 && decision.NeedsHuman != "" // no host can make the copies that are missing
		if !ofValue(reason.Rule, decision.Regenerate) && !nobody {
			continue
		}
		c.fail(Finding{ID: id, Host: hostOf(id, d), Reason: reason.Text, Mend: mend, Warning: waits})
	}
}

// ofValue says whether a rule is about the value, as opposed to single copies of it and to what needs only be told.
func ofValue(r decide.Rule, regenerate bool) bool {
	switch r {
	case decide.RuleMissing, decide.RuleExpired, decide.RuleData, decide.RuleDependency, decide.RuleOwners:
		return true
	case decide.RuleSeed, decide.RuleKey:
		return regenerate
	}
	return false
}

// unusable says whether a secret as a whole cannot be read.
func unusable(e *state.Entry) bool {
	return slices.ContainsFunc(e.Faults(), func(f *state.BrokenError) bool {
		return !f.Stray() && (f.Owner == "" || f.Conflict())
	})
}

// current are the generations of what a secret is made from.
func (c *checking) current(d *declaration) map[string]secret.Gen {
	gens := map[string]secret.Gen{}
	if d.spec.Generator == nil {
		return gens
	}
	for _, text := range d.spec.Generator.Dependencies {
		id, err := secret.ParseID(text)
		if err != nil {
			continue
		}
		if e := c.Tree.Secrets[id]; e != nil && e.Meta.Gen != "" {
			gens[text] = e.Meta.Gen
		}
	}
	return gens
}

// checkDependencies looks for dependencies that nothing declares, and for circles.
func (c *checking) checkDependencies(declared map[secret.ID]*declaration) {
	for _, id := range slices.SortedFunc(maps.Keys(declared), byID) {
		for _, dep := range dependencies(declared[id]) {
			if declared[dep] == nil && !c.unjudged(dep) {
				c.fail(Finding{ID: id, Host: hostOf(id, declared[id]), Reason: fmt.Sprintf("it is made from %s, which nothing declares", dep), Mend: fmt.Sprintf("declare %s, or take it out of the dependencies", dep)})
			}
		}
		if circle := circleOf(id, declared); circle != nil && slices.MinFunc(circle, byID) == id {
			var names []string
			for _, each := range append(circle, id) {
				names = append(names, each.String())
			}
			c.fail(Finding{ID: id, Host: hostOf(id, declared[id]), Reason: "it is made from itself: " + strings.Join(names, " → "), Mend: "take one of them out of the dependencies"})
		}
	}
}

func dependencies(d *declaration) []secret.ID {
	if d == nil || d.spec.Generator == nil {
		return nil
	}
	var ids []secret.ID
	for _, text := range slices.Sorted(maps.Values(d.spec.Generator.Dependencies)) {
		if id, err := secret.ParseID(text); err == nil {
			ids = append(ids, id)
		}
	}
	return slices.Compact(ids)
}

// circleOf is a way from a secret back to it; nil where there is none.
func circleOf(start secret.ID, declared map[secret.ID]*declaration) []secret.ID {
	seen := map[secret.ID]bool{}
	var visit func(at secret.ID, way []secret.ID) []secret.ID
	visit = func(at secret.ID, way []secret.ID) []secret.ID {
		seen[at] = true
		way = append(way, at)
		for _, dep := range dependencies(declared[at]) {
			if dep == start {
				return way
			}
			if !seen[dep] {
				if circle := visit(dep, way); circle != nil {
					return circle
				}
			}
		}
		return nil
	}
	return visit(start, nil)
}
