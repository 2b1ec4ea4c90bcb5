package secretsgen

import (
	"context"
	"slices"

	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
)

// Status says what [Engine.Sync] would do, for every secret of the selection that is declared or in the state. It changes nothing, asks
// nobody and reaches no host.
func (e *Engine) Status(ctx context.Context, selection Selection) (*Status, error) {
	v, err := e.open(ctx, selection.hostsOf(e.Plan))
	if err != nil {
		return nil, err
	}
	ids, err := v.decls.selected(selection, v.tree)
	if err != nil {
		return nil, err
	}
	decisions, err := v.forecast(ids)
	if err != nil {
		return nil, err
	}
	s := &Status{Fleet: e.Plan.Fleet, Secrets: []SecretStatus{}}
	for _, id := range v.needed(ids, decisions) {
		if one := v.decls.secrets[id]; one == nil && !v.decls.known(e.Plan, id) {
			continue // its host's declarations could not be evaluated, which is said of the host
		}
		s.Secrets = append(s.Secrets, v.statusOf(ctx, id, decisions))
	}
	s.Hosts = append(v.keys.problems(v.hostsNamed(ids)), v.specsProblems()...)
	slices.SortStableFunc(s.Hosts, byHost)
	return s, nil
}

func (v *view) statusOf(ctx context.Context, id secret.ID, decisions map[secret.ID]decide.Decision) SecretStatus {
	d, ok := decisions[id]
	if !ok {
		d = v.decide(id, v.gen)
	}
	s := SecretStatus{
		ID: id, Action: actionOf(v.tree.Secrets[id], d), Rules: ruleNumbers(d.Rules), Why: d.Why, Declared: []string{}, Owners: []string{},
		Wrap: d.Wrap, Remove: d.Remove, Pending: d.Pending, Notices: d.Notices, NeedsHuman: d.NeedsHuman, Hint: d.Command,
	}
	if one := v.decls.secrets[id]; one != nil {
		s.Declared = append(s.Declared, one.owners...)
	}
	if entry := v.tree.Secrets[id]; entry != nil {
		s.Owners = append(s.Owners, sortedKeys(entry.Owners)...)
		if entry.Err != nil {
			s.Broken, s.Hint = entry.Err.Error(), hintOf(entry.Err)
		}
		if entry.Meta.Gen != "" {
			created := entry.Meta.CreatedAt
			s.Gen, s.Seq, s.CreatedAt, s.ExpiresAt, s.Parts = entry.Meta.Gen, entry.Meta.Seq, &created, entry.Meta.ExpiresAt, sortedKeys(entry.Meta.Parts)
		}
	}
	v.hinder(ctx, &s, d)
	return s
}

// hinder adds what would keep sync from carrying out a decision.
func (v *view) hinder(ctx context.Context, s *SecretStatus, d decide.Decision) {
	switch {
	case s.NeedsHuman != "":
		return
	case v.cyclic[s.ID]:
		circle := v.decls.circle(s.ID, v.cyclic)
		s.Action, s.NeedsHuman, s.Hint = ActionNone, circle.Error(), circle.Hint()
		return
	case d.Regenerate && len(d.Waits) > 0:
		s.Action, s.NeedsHuman, s.Hint = ActionNone, waitsFor(d.Waits).Error(), "fleet secrets sync "+d.Waits[0]
		return
	}
	for _, owner := range d.Wrap {
		if err := v.keys.check(ctx, owner); err != nil {
			s.NeedsHuman, s.Hint = err.Error(), hintOf(err)
			return
		}
	}
}

func byHost(a, b HostProblem) int {
	switch {
	case a.Host < b.Host:
		return -1
	case a.Host > b.Host:
		return 1
	}
	return 0
}
