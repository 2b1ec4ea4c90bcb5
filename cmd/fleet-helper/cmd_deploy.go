package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/push/deploy"
)

// deployOptions are the flags of deploy.
type deployOptions struct {
	fleet  fleetOptions
	hosts  hostOptions
	sel    selectOptions
	global *globals

	failFast, keepGoing bool
	yes, json           bool
	signKey             string
	secrets             secretsMode
	guard               guardOptions
	substitute          bool
	// substituteSet says that the flag was given.
	substituteSet func() bool
}

func newDeploy(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "deploy",
		Args:    "[ACTION]",
		Summary: "Build, push and activate hosts; without ACTION: switch.",
		Help: `
ACTION is one of

- build: build the systems. No host is connected to unless it builds.
- push: also copy them to the hosts, where they are protected from garbage collection until the next push.
- dry-activate: also let the hosts say what an activation would do.
- test: also activate, for now: the next boot brings the old system.
- boot: prepare the next boot, and leave what runs alone.
- switch: test, and once that went well make it what boots.
- reboot: prepare the next boot, reboot, and once that went well make it what boots.
- rollback: switch to the generation before the present one, or to that of --to, which is on the host already.

What is activated is guarded by the host itself: it is confirmed over a new connection once units, health and the way to the host are as they should be, and
until then the next boot brings the old system. A host that is not confirmed goes back by itself; "fleet status" and "fleet attach" show that.

Every host goes its own way: one that fails stops no other, and the exit code says so at the end. Where more than one host is about to change, and
there is a terminal, it asks once. Ctrl-C before an activation leaves nothing behind; during one it detaches, and says how to attach again.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &deployOptions{global: g, substituteSet: func() bool { return flags.Changed("substitute-on-destination") }}
			o.addFlags(flags)
			return o.run
		},
	}
}

func (o *deployOptions) addFlags(flags *pflag.FlagSet) {
	o.sel.addFlags(flags)
	o.fleet.addFlags(flags)
	o.hosts.addFlags(flags)
	flags.BoolVar(&o.failFast, "fail-fast", false, "stop the other hosts before their activation when one has failed")
	flags.BoolVar(&o.keepGoing, "keep-going", false, "go on with the other hosts when one has failed; this is the default")
	flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask before hosts change")
	flags.BoolVar(&o.json, "json", false, "print events and the report as JSON, one object a line")
	flags.StringVar(&o.signKey, "sign-key", "", "sign what is pushed with the secret key in `FILE`, for hosts whose Nix does not trust the login user")
	o.secrets.addFlags(flags)
	o.guard.addFlags(flags)
	flags.BoolVar(&o.substitute, "substitute-on-destination", false, "let the hosts fetch from their own substituters first, whatever deploy.substituteOnDestination says; =false forbids it")
}

func (o *deployOptions) validate(action deploy.Action) error {
	if o.failFast && o.keepGoing {
		return cli.Usagef("--fail-fast and --keep-going exclude each other")
	}
	if err := errors.Join(o.secrets.validate(), o.guard.validate(action)); err != nil {
		return err
	}
	return o.hosts.validate()
}

// deployAction reads the positional argument.
func deployAction(args []string) (deploy.Action, error) {
	if len(args) == 0 {
		return deploy.ActionSwitch, nil
	}
	if len(args) > 1 {
		return "", &cli.UsageError{Err: fmt.Errorf("one action, not %d", len(args)), Remedy: "hosts are named with --on"}
	}
	action := deploy.Action(args[0])
	if !action.Valid() {
		var known []string
		for _, a := range deploy.Actions() {
			known = append(known, string(a))
		}
		remedy := cli.DidYouMean(args[0], known, "")
		if remedy == "" {
			remedy = "it is one of: " + strings.Join(known, ", ") + "; hosts are named with --on"
		}
		return "", &cli.UsageError{Err: fmt.Errorf("unknown action %q", args[0]), Remedy: remedy}
	}
	return action, nil
}

// interruption says what a first signal means.
func interruption(action deploy.Action) string {
	if action.Activates() {
		return "interrupted: ending in order, activations go on; a second signal ends at once"
	}
	return "interrupted: ending in order; a second signal ends at once"
}

func (o *deployOptions) run(ctx context.Context, env *cli.Env, args []string) error {
	action, err := deployAction(args)
	if err != nil {
		return err
	}
	if err := o.validate(action); err != nil {
		return err
	}
	ctx, env, stopWatching := endWithReaders(ctx, withoutColor(env, o.global))
	defer stopWatching()
	display := ui.New(env, o.json)
	defer display.Close()
	stop := context.AfterFunc(ctx, func() {
		display.Log(interruption(action))
	})
	defer stop()
	report, err := o.deploy(ctx, env, display, action)
	if err != nil {
		display.Close()
		display.Fail(err)
		return err
	}
	code := int(report.ExitCode())
	if err := display.Finish(report); err != nil {
		err = fmt.Errorf("print the report: %w", err)
		if code == cli.ExitOK {
			return err
		}
		display.Log(err.Error()) // what became of the hosts counts more
	}
	return cli.Status(code)
}

func (o *deployOptions) deploy(ctx context.Context, env *cli.Env, display ui.Display, action deploy.Action) (*deploy.Report, error) {
	op, err := openFleet(ctx, env, o.global, &o.fleet, display)
	if err != nil {
		return nil, err
	}
	request, err := o.request(op, action)
	if err != nil {
		return nil, err
	}
	d := &deploy.Deployer{
		Backend: op.backend, Snapshot: op.snapshot, Plan: op.plan, Reporter: op.reporter,
		Limits: deploy.Limits{Hosts: o.hosts.parallel}, Specialisation: specialisation,
	}
	closeAll, err := o.connect(op, d, request)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	display.Begin(ui.Run{Action: action, Fleet: op.plan.Fleet, Source: op.snapshot.Source, Hosts: request.Hosts, Attach: o.global.attachCommand()})
	report, err := d.Run(ctx, request)
	if err == nil && op.state != nil {
		// An interrupted run has pinned keys too.
		report.Uncommitted.Add(op.state.Dir(), op.state.Uncommitted(context.WithoutCancel(ctx))...)
	}
	return report, err
}

// connect gives the deployment its way to hosts, and, where secrets may be made, what makes them.
func (o *deployOptions) connect(op *operation, d *deploy.Deployer, request deploy.Request) (closeAll func(), err error) {
	if d.NoSecrets = o.secrets.forbidden(op, &o.fleet); d.NoSecrets != "" {
		c, err := op.newConnector(&o.hosts)
		if err != nil {
			return nil, err
		}
		d.Connector, d.Leaks = c, &deploy.Leaks{Source: c.store}
		return func() { _ = c.Close() }, nil // the report says what became of the hosts
	}
	v, err := op.newVault(&o.hosts, request)
	if err != nil {
		return nil, err
	}
	d.Connector, d.Hosts, d.Leaks = v.connector, v.hosts, &deploy.Leaks{Source: v.connector.store}
	d.Secrets = &deploy.EngineSecrets{Engine: v.engine, Source: v.source, Dir: op.state.Dir()}
	return func() { _ = v.Close() }, nil
}

// request turns the flags into what the pipeline is asked for.
func (o *deployOptions) request(op *operation, action deploy.Action) (deploy.Request, error) {
	request := deploy.Request{Action: action, FailFast: o.failFast, Owner: owner(op.env), Guard: o.guard.overrides(), To: o.guard.to}
	var err error
	if request.Hosts, err = o.sel.apply(op.plan, op.env.Stdin); err != nil {
		return request, err
	}
	request.Overrides = deploy.Overrides{Transport: o.hosts.transport, AcceptNewHostKeys: o.hosts.acceptNewHostKeys}
	if request.Overrides.Pins, err = op.pins(); err != nil {
		return request, err
	}
	if o.substituteSet() {
		request.Substitute = &o.substitute
	}
	if o.signKey != "" {
		if request.Signer, err = loadSigningKey(o.signKey); err != nil {
			return request, err
		}
	}
	if op.env.Interactive && !o.yes && !o.json {
		request.Confirm = func(ctx context.Context, changes []deploy.Change) (bool, error) {
			return op.prompter.Confirm(ctx, fmt.Sprintf("%s these %d hosts?", action, len(changes)), changes)
		}
	}
	return request, nil
}
