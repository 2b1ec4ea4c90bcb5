package secretsgen

import (
	"context"
	"fmt"
	"slices"

	"fleet/evaluator/plan"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
)

// EnsureMissing makes what the hosts need and do not have, and nothing else: their missing secrets, and their copies of shared ones. specs are theirs. extra are
// secrets of other hosts whose public parts evaluation asked for: the host's secret of that name is made for every host that declares it and has
// none. What would change a value that other hosts have is left to sync and said in NeedsHuman.
func (e *Engine) EnsureMissing(ctx context.Context, hosts []string, specs map[string]plan.Specs, extra []secret.ID) (*Report, error) {
	o, end, err := e.begin(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer end()
	o.decls.addSpecs(specs)
	evaluate := slices.Clone(hosts)
	if slices.ContainsFunc(extra, func(id secret.ID) bool { return id.Scope != secret.Shared }) {
		evaluate = sortedKeys(e.Plan.Hosts) // any host may declare a secret of that name
	}
	if err := e.load(ctx, o.decls, evaluate); err != nil {
		return nil, err
	}
	o.arrange()
	m := &missing{operation: o, hosts: hosts, extra: map[secret.ID]bool{}}
	report, err := o.carryOut(ctx, m.ids(extra), m.only)
	if report != nil {
		report.Hosts = slices.DeleteFunc(report.Hosts, func(p HostProblem) bool { return p.Kind != KindLie && !m.wants(p.Host) && !m.asked(p.Host) })
	}
	return report, err
}

// missing narrows decisions to what hosts lack.
type missing struct {
	*operation
	hosts []string
	// extra are needed whoever owns them.
	extra map[secret.ID]bool
}

// ids are the secrets of the hosts, and what is needed of others.
func (m *missing) ids(extra []secret.ID) []secret.ID {
	names := map[string]bool{}
	for _, id := range extra {
		if id.Scope == secret.Shared {
			m.extra[id] = true
			continue
		}
		names[id.Name] = true
	}
	var ids []secret.ID
	for id, one := range m.decls.secrets {
		_, own := id.Scope.Host()
		if own && names[id.Name] {
			m.extra[id] = true
		}
		if m.extra[id] || slices.ContainsFunc(one.owners, m.wants) {
			ids = append(ids, id)
		}
	}
	return sortIDs(ids)
}

// asked says whether a host's own public part is needed.
func (m *missing) asked(host string) bool {
	for id := range m.extra {
		if owner, ok := id.Scope.Host(); ok && owner == host {
			return true
		}
	}
	return false
}

func (m *missing) wants(host string) bool { return slices.Contains(m.hosts, host) }

// only keeps of a decision what some host lacks.
func (m *missing) only(id secret.ID, d decide.Decision) decide.Decision {
	d.Pending = slices.DeleteFunc(slices.Clone(d.Pending), func(host string) bool { return !m.wants(host) && !m.asked(host) })
	entry := m.entry(id)
	if entry == nil {
		return d // nobody has it; dependencies come here too
	}
	_, own := id.Scope.Host()
	lacking := slices.DeleteFunc(slices.Clone(m.decls.secrets[id].owners), func(owner string) bool {
		copied, ok := entry.Owners[owner]
		return !m.wants(owner) || ok && copied.Gen == entry.Meta.Gen
	})
	switch {
	case d.Regenerate && own && slices.Contains(d.Rules, decide.RuleMissing):
		return d // only this host has it, and cannot do without
	case d.Regenerate && (slices.Contains(d.Rules, decide.RuleMissing) || len(lacking) > 0):
		left := nothing(d)
		left.Command = "fleet secrets sync " + id.String()
		left.NeedsHuman = fmt.Sprintf("%s: a new value is needed, which changes it for %s too; run: %s", d.Why, joinNames(sortedKeys(entry.Owners)), left.Command)
		return left
	case d.Regenerate:
		return nothing(d)
	}
	kept := d
	kept.Remove, kept.Notices = nil, nil
	kept.Wrap = slices.DeleteFunc(slices.Clone(d.Wrap), func(owner string) bool { return !slices.Contains(lacking, owner) })
	if len(lacking) == 0 && !slices.Contains(d.Rules, decide.RuleMissing) {
		kept.NeedsHuman, kept.Command = "", ""
	}
	return kept
}
