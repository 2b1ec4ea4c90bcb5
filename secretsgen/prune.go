package secretsgen

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fleet/evaluator/plan"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// Undeclared lists the secrets of the selection that the state has and nothing declares. Hosts whose declarations could not be
// evaluated are left out, and in the second result.
func (e *Engine) Undeclared(ctx context.Context, selection Selection) ([]secret.ID, []HostProblem, error) {
	v, err := e.open(ctx, selection.hostsOf(e.Plan))
	if err != nil {
		return nil, nil, err
	}
	ids, err := v.decls.selected(selection, v.tree)
	if err != nil {
		return nil, nil, err
	}
	ids = slices.DeleteFunc(ids, func(id secret.ID) bool { return !v.prunable(id) })
	return ids, v.specsProblems(), nil
}

// prunable says whether the state has a secret that nothing declares, for certain.
func (v *view) prunable(id secret.ID) bool {
	return v.tree.Secrets[id] != nil && v.decls.secrets[id] == nil && v.decls.known(v.Plan, id)
}

// Prune removes these secrets from the state, if nothing declares them.
func (e *Engine) Prune(ctx context.Context, ids []secret.ID) (*Report, error) {
	selection := Selection{Secrets: ids}
	o, end, err := e.begin(ctx, selection.hostsOf(e.Plan))
	if err != nil {
		return nil, err
	}
	defer end()
	if _, err := o.decls.selected(selection, o.tree); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := o.prune(ctx, id); err != nil {
			o.fail(ctx, id, err)
		}
	}
	return o.report(), ctx.Err()
}

func (o *operation) prune(ctx context.Context, id secret.ID) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !o.prunable(id) {
		if host, ok := id.Scope.Host(); ok && o.decls.failed[host] != nil {
			return fmt.Errorf("remove %s: whether it is declared is not known: %w", id, o.decls.failed[host])
		}
		return fmt.Errorf("remove %s: it is declared; take it out of the configuration first", id)
	}
	err := o.State.Remove(context.WithoutCancel(ctx), id)
	var untracked *state.UntrackedError
	if err != nil && !errors.As(err, &untracked) {
		return err
	}
	o.note(id, func(one *Outcome) {
		one.Action, one.Done, one.Why = ActionPrune, true, "nothing declares it"
		if entry := o.tree.Secrets[id]; entry != nil {
			one.Removed = sortedKeys(entry.Owners)
		}
	})
	o.emit(plan.Event{Kind: plan.EventProgress, Message: id.String() + ": removed"})
	return nil
}

// Resolve ends git's conflicts in these secrets, in all that have one where ids is nil, with the whole value of one side. It returns those that
// it resolved, also where it ended with an error.
func (e *Engine) Resolve(ctx context.Context, ids []secret.ID, side state.Side) ([]secret.ID, error) {
	unlock, err := e.State.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if ids == nil {
		if ids, err = e.State.Conflicts(ctx); err != nil {
			return nil, err
		}
	}
	var resolved []secret.ID
	for _, id := range ids {
		if err := e.State.Resolve(ctx, id, side); err != nil {
			return resolved, err
		}
		resolved = append(resolved, id)
	}
	return resolved, nil
}
