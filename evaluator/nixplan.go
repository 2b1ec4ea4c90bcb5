package evaluator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"fleet/evaluator/plan"
)

// Plan evaluates the fleet's plan. A fleet that the flake does not have is a [*NoFleetError].
func (n *Nix) Plan(ctx context.Context, s Snapshot) (*plan.Plan, error) {
	name := nixString(n.opts.Fleet)
	apply := "fleets: if fleets ? " + name + " then { plan = fleets." + name + ".plan; } else { fleets = builtins.attrNames fleets; }"
	out, err := n.evaluate(ctx, s, "", "fleetConfigurations", apply)
	if err != nil {
		var failed *EvalError
		if errors.As(err, &failed) && lacksFleets(failed) {
			return nil, &NoFleetError{Fleet: n.opts.Fleet}
		}
		return nil, err
	}
	var answer struct {
		Plan   json.RawMessage `json:"plan"`
		Fleets []string        `json:"fleets"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("read the plan that nix printed: %w", err)
	}
	if answer.Plan == nil {
		slices.Sort(answer.Fleets)
		return nil, &NoFleetError{Fleet: n.opts.Fleet, Known: answer.Fleets}
	}
	p, err := plan.Decode(answer.Plan)
	if err != nil {
		return nil, fmt.Errorf("read the plan of fleet %q: %w", n.opts.Fleet, err)
	}
	if p.Fleet != n.opts.Fleet {
		return nil, fmt.Errorf("read the plan of fleet %q: it says that its name is %q", n.opts.Fleet, p.Fleet)
	}
	return p, nil
}

// lacksFleets recognises the answer of a flake that has no fleet at all.
func lacksFleets(e *EvalError) bool {
	return slices.ContainsFunc(e.Summary, func(line string) bool {
		return strings.Contains(line, "does not provide attribute") && strings.Contains(line, "fleetConfigurations'")
	})
}

// evaluate applies a function to an attribute of the flake and returns the result as JSON.
func (n *Nix) evaluate(ctx context.Context, s Snapshot, host, attr, apply string) ([]byte, error) {
	if s.Ref == "" {
		return nil, errors.New("evaluate flake: the snapshot is not one of this backend")
	}
	argv := append([]string{"nix"}, n.evalArgs()...)
	argv = append(argv, "--apply", apply, "--", s.Ref+"#"+attr)
	return n.output(ctx, call{host: host, step: plan.StepPlan, argv: argv, source: n.sourceOf(s)})
}

// nixString writes a text as a literal of the Nix language.
func nixString(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(text) + `"`
}
