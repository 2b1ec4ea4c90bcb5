package secretsgen

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"fleet/evaluator/plan"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// Sync carries out what [Engine.Status] says: it generates, seals to more owners, and removes former owners' copies. Dependencies
// that have no value are made too, selected or not. Each finished secret is saved at once; what failed is in the report, and the rest goes on. The error
// is about the whole operation, such as a state that another process has locked; the report is then nil.
func (e *Engine) Sync(ctx context.Context, selection Selection) (*Report, error) {
	o, end, err := e.begin(ctx, selection.hostsOf(e.Plan))
	if err != nil {
		return nil, err
	}
	defer end()
	ids, err := o.decls.selected(selection, o.tree)
	if err != nil {
		return nil, err
	}
	return o.carryOut(ctx, ids, nil)
}

// narrow changes what is decided on a secret into what an operation does of it.
type narrow func(id secret.ID, d decide.Decision) decide.Decision

// carryOut carries out what is decided on these secrets, as far as narrow lets it; nil lets all of it.
func (o *operation) carryOut(ctx context.Context, ids []secret.ID, only narrow) (*Report, error) {
	if only == nil {
		only = func(_ secret.ID, d decide.Decision) decide.Decision { return d }
	}
	o.takeVariables(o.decls)
	forecast, err := o.forecast(ids)
	if err != nil {
		return nil, err
	}
	for id, d := range forecast {
		forecast[id] = only(id, d)
	}
	ids = o.needed(ids, forecast)
	w := o.plan(ids, forecast, only)
	o.emit(plan.Event{Kind: plan.EventStarted})
	o.wrapAll(ctx, w.keep)
	o.generateAll(ctx, w)
	o.problems = append(o.problems, o.specsProblems()...)
	o.noteKeys(ids)
	report := o.report()
	o.emit(ended(report, o.done))
	if ctx.Err() != nil {
		return report, context.Cause(ctx)
	}
	return report, nil
}

// ended is the last event of an operation.
func ended(r *Report, done int) plan.Event {
	event := plan.Event{Kind: plan.EventDone, Message: fmt.Sprintf("%s changed, %d as they were", count(done), r.Unchanged)}
	if r.Incomplete() {
		event.Kind = plan.EventFailed
	}
	return event
}

func count(n int) string {
	if n == 1 {
		return "1 secret"
	}
	return fmt.Sprintf("%d secrets", n)
}

// noteKeys notes what is wrong with the keys of the hosts that these secrets are for.
func (o *operation) noteKeys(ids []secret.ID) {
	for _, p := range o.keys.problems(o.hostsNamed(ids)) {
		o.hostProblem(p)
	}
}

// work is what an operation will do.
type work struct {
	// keep are the decisions that keep the value.
	keep map[secret.ID]decide.Decision
	// make are the secrets that get a value, dependencies first.
	make []secret.ID
	only narrow
}

// plan sorts decisions into work, and notes those that lead to none.
func (o *operation) plan(ids []secret.ID, forecast map[secret.ID]decide.Decision, only narrow) work {
	w := work{keep: map[secret.ID]decide.Decision{}, only: only}
	in := make(map[secret.ID]bool, len(ids))
	for _, id := range ids {
		in[id] = true
		if d, ok := forecast[id]; ok {
			o.judge(id, d)
			continue
		}
		if o.decls.known(o.Plan, id) || o.decls.secrets[id] != nil {
			o.judge(id, only(id, o.decide(id, o.gen)))
		}
		if o.cyclic[id] {
			circle := o.decls.circle(id, o.cyclic)
			o.note(id, func(one *Outcome) { one.Action, one.NeedsHuman, one.Hint = ActionNone, circle.Error(), circle.Hint() })
		}
	}
	for _, id := range o.order {
		d := forecast[id]
		switch {
		case !in[id]:
		case makes(d) || d.Regenerate && len(d.Waits) > 0:
			w.make = append(w.make, id)
			o.total++
		case len(d.Wrap)+len(d.Remove) > 0:
			w.keep[id] = d
			o.total++
		}
	}
	return w
}

// takeVariables takes the environment variables that secrets are asked from out of our environment. What the plan declares is taken before
// any child is started, what hosts declare as soon as they were evaluated: before any generator, and anything but git and nix.
func (e *Engine) takeVariables(decls *declarations) {
	for _, one := range decls.secrets {
		g := one.spec.Generator
		if g == nil || g.Ask == nil || g.Ask.From != "env" || e.Variable == nil {
			continue
		}
		if _, taken := e.variables[g.Ask.Variable]; taken {
			continue
		}
		if value, ok := e.Variable(g.Ask.Variable); ok {
			if e.variables == nil {
				e.variables = map[string]secret.Plain{}
			}
			e.variables[g.Ask.Variable] = value
		}
	}
}

// generateAll makes values, each after those that it is made from, and all that do not wait for each other at the same time.
func (o *operation) generateAll(ctx context.Context, w work) {
	systems := o.needsPrograms(w.make)
	ready := make(map[secret.ID]chan struct{}, len(w.make))
	for _, id := range w.make {
		ready[id] = make(chan struct{})
	}
	kept := map[secret.ID]decide.Decision{}
	var mu sync.Mutex
	failed := map[secret.ID]bool{}
	var all sync.WaitGroup
	for _, system := range sortedKeys(systems) {
		o.programs.prepare(ctx, system, systems[system])
	}
	for _, id := range w.make {
		all.Go(func() {
			defer close(ready[id])
			late, err := o.generateAfter(ctx, id, w, ready, func(dep secret.ID) bool {
				mu.Lock()
				defer mu.Unlock()
				return failed[dep]
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[id] = true
				o.fail(ctx, id, err)
			} else if late != nil {
				kept[id] = *late
			}
		})
	}
	all.Wait()
	o.wrapAll(ctx, kept)
}

// generateAfter waits for a secret's dependencies, decides anew, and makes the value. What keeps the value after all is returned.
func (o *operation) generateAfter(
	ctx context.Context, id secret.ID, w work, ready map[secret.ID]chan struct{}, failed func(secret.ID) bool,
) (*decide.Decision, error) {
	deps := o.decls.secrets[id].deps
	for _, alias := range sortedKeys(deps) {
		made, ok := ready[deps[alias]]
		if !ok {
			continue
		}
		select {
		case <-made:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if failed(deps[alias]) {
			return nil, &dependencyError{deps[alias]}
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	d := w.only(id, o.decideNow(id))
	o.judge(id, d)
	switch {
	case d.Regenerate && len(d.Waits) > 0:
		return nil, &personError{text: waitsFor(d.Waits).Error(), hint: "fleet secrets sync " + d.Waits[0]}
	case makes(d):
		return nil, o.generate(ctx, id, d)
	case len(d.Wrap)+len(d.Remove) > 0 && !d.Regenerate:
		return &d, nil
	}
	return nil, nil
}

// dependencyError says that a value was not made because one that it is made from was not.
type dependencyError struct{ on secret.ID }

func (e *dependencyError) Error() string {
	return fmt.Sprintf("it is made from %s, which failed", e.on)
}

// Regenerate makes new values whatever the state is, and then those of secrets that depend on them.
func (e *Engine) Regenerate(ctx context.Context, ids []secret.ID) (*Report, error) {
	return e.regenerate(ctx, nil, func(*operation) []secret.ID { return ids })
}

// Rotate makes new values of all that a host can or could read, see [Engine.ReadableBy]; those that a person gave are in NeedsHuman.
func (e *Engine) Rotate(ctx context.Context, readableBy string) (*Report, error) {
	return e.regenerate(ctx, sortedKeys(e.Plan.Hosts), func(o *operation) []secret.ID { return o.readableBy(readableBy) })
}

// regenerate makes new values of the secrets that which names, once these hosts were evaluated.
func (e *Engine) regenerate(ctx context.Context, hosts []string, which func(*operation) []secret.ID) (*Report, error) {
	o, end, err := e.begin(ctx, hosts)
	if err != nil {
		return nil, err
	}
	defer end()
	ids := which(o)
	// Those that depend on them are found in the state, so that no host is evaluated for nothing.
	all := o.dependents(ids, func(secret.ID) bool { return true })
	selection := Selection{Secrets: all}
	if err := e.load(ctx, o.decls, selection.hostsOf(e.Plan)); err != nil {
		return nil, err
	}
	o.arrange()
	if _, err := o.decls.selected(Selection{Secrets: ids}, o.tree); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if o.decls.secrets[id] != nil {
			o.force[id] = true
			continue
		}
		o.note(id, func(one *Outcome) { o.undeclared(one) })
	}
	return o.carryOut(ctx, all, func(id secret.ID, d decide.Decision) decide.Decision {
		if o.force[id] || d.Regenerate && slices.Contains(d.Rules, decide.RuleDependency) || o.entry(id) == nil {
			return d
		}
		return nothing(d)
	})
}

// undeclared notes that nothing can be made of a secret.
func (v *view) undeclared(one *Outcome) {
	if host, ok := one.ID.Scope.Host(); ok && v.decls.failed[host] != nil {
		one.Error, one.Hint = v.decls.failed[host].Error(), hintOf(v.decls.failed[host])
		return
	}
	one.NeedsHuman, one.Hint = "nothing declares it, so there is nothing to make it with", "fleet secrets prune "+one.ID.String()
}

// nothing is a decision of which nothing is carried out.
func nothing(d decide.Decision) decide.Decision { return decide.Decision{Rules: d.Rules, Why: d.Why} }

// dependents adds to secrets those that were made from them, and so on, as far as through says.
func (v *view) dependents(ids []secret.ID, through func(secret.ID) bool) []secret.ID {
	users := map[string][]secret.ID{}
	for id, entry := range v.tree.Secrets {
		for dep := range entry.Meta.Deps {
			users[dep] = append(users[dep], id)
		}
	}
	in := map[secret.ID]bool{}
	all := []secret.ID{}
	var add func(id secret.ID)
	add = func(id secret.ID) {
		if in[id] {
			return
		}
		in[id] = true
		all = append(all, id)
		if !through(id) {
			return
		}
		for _, user := range users[id.String()] {
			add(user)
		}
	}
	for _, id := range ids {
		add(id)
	}
	return sortIDs(all)
}

// ReadableBy lists what a host can or could read, as the state is now: what it owns, values that it owned and that are still the current ones,
// what was generated on it or will be, and what was made from any of these. All hosts are evaluated for what is generated on it.
func (e *Engine) ReadableBy(ctx context.Context, host string) ([]secret.ID, error) {
	v, err := e.open(ctx, sortedKeys(e.Plan.Hosts))
	if err != nil {
		return nil, err
	}
	return v.readableBy(host), nil
}

func (v *view) readableBy(host string) []secret.ID {
	var ids []secret.ID
	for id, entry := range v.tree.Secrets {
		revoked := slices.ContainsFunc(entry.Revoked, func(r secret.Revoked) bool { return r.Owner == host && r.Gen == entry.Meta.Gen })
		if revoked || hasCopy(entry, host) || entry.Meta.MadeOn == host || v.generatedOn(id, host) {
			ids = append(ids, id)
		}
	}
	// Whoever can read what a value is made from may have made it: generators run where their dependencies can be read.
	return v.dependents(ids, func(id secret.ID) bool {
		entry := v.tree.Secrets[id]
		return entry != nil && len(entry.Meta.Encrypted()) > 0
	})
}

func (v *view) generatedOn(id secret.ID, host string) bool {
	one := v.decls.secrets[id]
	return one != nil && one.spec.Generator != nil && one.spec.Generator.On != nil && *one.spec.Generator.On == host
}

// Rekey seals values anew where an owner's key has changed, its copy is damaged or of another generation, and does nothing else of [Engine.Sync].
func (e *Engine) Rekey(ctx context.Context, selection Selection) (*Report, error) {
	o, end, err := e.begin(ctx, selection.hostsOf(e.Plan))
	if err != nil {
		return nil, err
	}
	defer end()
	ids, err := o.decls.selected(selection, o.tree)
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id secret.ID) bool { return o.tree.Secrets[id] == nil })
	return o.carryOut(ctx, ids, func(id secret.ID, d decide.Decision) decide.Decision {
		entry := o.entry(id)
		switch {
		case entry == nil || !slices.Contains(d.Rules, decide.RuleKey):
			return nothing(d)
		case d.Regenerate:
			left := nothing(d)
			left.Command = "fleet secrets sync " + id.String()
			left.NeedsHuman = fmt.Sprintf("%s: %s", d.Why, left.Command)
			return left
		}
		d.Remove = nil
		d.Wrap = slices.DeleteFunc(slices.Clone(d.Wrap), func(owner string) bool { return !hasCopy(entry, owner) })
		return d
	})
}

// hasCopy says whether the state has a host's copy of a value, readable or not.
func hasCopy(entry *state.Entry, host string) bool {
	if _, ok := entry.Owners[host]; ok {
		return true
	}
	return slices.ContainsFunc(entry.Faults(), func(fault *state.BrokenError) bool { return fault.Owner == host })
}
