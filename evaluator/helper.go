package evaluator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// Helper builds the helper for a target system, once a run and snapshot, and roots it beside the hosts' systems. It is the package that the plan names, for the
// operator's system: where that differs from the target's, it is cross-built. What is missing is a [*HelperError].
func (n *Nix) Helper(ctx context.Context, s Snapshot, p *plan.Plan, system string) (storepath.Path, error) {
	helper, err := helperOf(p, system)
	if err != nil {
		return storepath.Path{}, err
	}
	if helper.Package == "" {
		return storepath.Path{}, &HelperError{
			System: system, Reason: "the plan does not name its package",
			Remedy: "update the fleet flake: nix flake update fleet",
		}
	}
	key := s.Ref + "\x00" + system
	for {
		n.mu.Lock()
		path, ok := n.built[key]
		n.mu.Unlock()
		if ok {
			return path, nil
		}
		result := n.helpers.DoChan(key, func() (any, error) { return n.buildHelper(ctx, s, p, system, helper.Package) })
		select {
		case <-ctx.Done():
			return storepath.Path{}, context.Cause(ctx)
		case r := <-result:
			// The caller that began the build may have been cancelled, and we not.
			if r.Err != nil && ctx.Err() == nil && errors.Is(r.Err, context.Canceled) {
				continue
			}
			if r.Err != nil {
				return storepath.Path{}, r.Err
			}
			n.mu.Lock()
			n.built[key] = r.Val.(storepath.Path)
			n.mu.Unlock()
		}
	}
}

// helperOf looks a target system up in the plan.
func helperOf(p *plan.Plan, system string) (plan.Helper, error) {
	helper, ok := p.Helpers[system]
	if !ok {
		return helper, &HelperError{
			System: system, Reason: "the plan has none for this system",
			Remedy: "targets can be: " + strings.Join(slices.Sorted(maps.Keys(p.Helpers)), ", "),
		}
	}
	return helper, nil
}

func (n *Nix) buildHelper(ctx context.Context, s Snapshot, p *plan.Plan, system, name string) (storepath.Path, error) {
	quoted := nixString(name)
	apply := "packages: if packages ? " + quoted + " then { inherit (packages." + quoted + ") drvPath; toplevel = packages." + quoted + ".outPath; } else { }"
	missing := &HelperError{
		System: system, Reason: fmt.Sprintf("the flake has no packages.%s.%s", n.opts.System, name),
		Remedy: fmt.Sprintf("add %q to systems in your flake.nix: the helper is built on this machine", n.opts.System),
	}
	out, err := n.evaluate(ctx, s, "", "packages."+n.opts.System, apply)
	var failed *EvalError
	if errors.As(err, &failed) && slices.ContainsFunc(failed.Summary, func(line string) bool { return strings.Contains(line, "does not provide attribute") }) {
		return storepath.Path{}, missing
	}
	if err != nil {
		return storepath.Path{}, fmt.Errorf("evaluate helper for %s: %w", system, err)
	}
	var answer plan.System
	if err := json.Unmarshal(out, &answer); err != nil {
		return storepath.Path{}, fmt.Errorf("evaluate helper for %s: read what nix printed: %w", system, err)
	}
	if answer.DrvPath == "" {
		return storepath.Path{}, missing
	}
	path, err := storepath.Parse(answer.OutPath)
	if err != nil {
		return storepath.Path{}, fmt.Errorf("evaluate helper for %s: %w", system, err)
	}
	root, err := n.root(p.Fleet, ".helper-"+system)
	if err != nil {
		return storepath.Path{}, err
	}
	if err := n.realise(ctx, realisation{step: plan.StepBuild, drv: answer.DrvPath, out: answer.OutPath, root: root}); err != nil {
		return storepath.Path{}, fmt.Errorf("build helper for %s: %w", system, err)
	}
	return path, nil
}
