package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/logging"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
	"fleet/push/hostkeys"
)

// operation is what the commands that work on a fleet share: the fleet, and how it is shown.
type operation struct {
	env      *cli.Env
	display  ui.Display
	prompter *ui.Prompter
	// reporter shows and logs; every engine gets it.
	reporter deploy.Reporter
	backend  evaluator.Backend
	snapshot evaluator.Snapshot
	plan     *plan.Plan
	// state is nil where there is no work tree to keep pins in.
	state *hostkeys.Store
}

// openFleet evaluates the plan. The display is the caller's to close.
func openFleet(ctx context.Context, env *cli.Env, g *globals, o *fleetOptions, display ui.Display) (*operation, error) {
	if err := g.validate(); err != nil {
		return nil, err
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	log, err := logging.New(ui.LogWriter{Display: display}, g.logLevel, g.logFormat)
	if err != nil {
		return nil, err
	}
	op := &operation{env: env, display: display, prompter: &ui.Prompter{Env: env, Display: display}}
	op.reporter = &logging.Reporter{Log: log, Next: display}
	if op.backend, err = o.openBackend(env, g, op.reporter); err != nil {
		return nil, err
	}
	if op.snapshot, op.plan, err = deploy.Open(ctx, op.backend, op.reporter); err != nil {
		return nil, asUsage(err)
	}
	if dir := o.workTree(); dir != "" {
		if op.state, err = hostkeys.Open(dir, op.plan.Fleet, run.RunnerFunc(run.Run)); err != nil {
			return nil, err
		}
	}
	return op, nil
}

// asUsage marks the errors of a flake or a fleet that was named wrongly, or not at all.
func asUsage(err error) error {
	var noFlake *evaluator.NoFlakeError
	var otherFlake *evaluator.OtherFlakeError
	var noFleet *evaluator.NoFleetError
	var fragment *evaluator.FragmentError
	if errors.As(err, &fragment) || errors.As(err, &noFlake) || errors.As(err, &otherFlake) || errors.As(err, &noFleet) {
		return &cli.UsageError{Err: err}
	}
	return err
}

// withoutColor applies --no-color.
func withoutColor(env *cli.Env, g *globals) *cli.Env {
	if !g.noColor {
		return env
	}
	plain := *env
	plain.Color = false
	return &plain
}

// pins are the host keys that the state holds.
func (op *operation) pins() (map[string][]string, error) {
	if op.state == nil {
		return nil, nil
	}
	return op.state.Keys()
}

// owner names who works on a host, for its lock: user@machine.
func owner(env *cli.Env) string {
	name := env.Getenv("SUDO_USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		} else {
			name = fmt.Sprintf("uid %d", os.Getuid())
		}
	}
	machine, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + machine
}
