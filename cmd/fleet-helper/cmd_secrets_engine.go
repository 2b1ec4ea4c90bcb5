package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
	"fleet/push/transport"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
	"fleet/secretsgen/step"
	"fleet/secretsgen/trust"
)

// vault is the secrets of a fleet and what it takes to work on them.
type vault struct {
	op     *operation
	engine *secretsgen.Engine
	// hosts are reached on demand, over connector.
	hosts     *deploy.Hosts
	connector *connector
	source    *deploy.Source
	trust     *trust.Policy
	// pins are the keys that the state has, by host.
	pins map[string][]string
}

// Close ends all sessions.
func (v *vault) Close() error {
	v.hosts.Close()
	return v.connector.Close()
}

// open evaluates the plan and makes everything ready. Nothing is connected to, and no host is evaluated, before somebody asks.
func (o *secretsOptions) open(ctx context.Context, env *cli.Env, display ui.Display) (*vault, error) {
	op, err := openFleet(ctx, env, o.global, &o.fleet, display)
	if err != nil {
		return nil, err
	}
	if op.state == nil {
		return nil, noWorkTree()
	}
	return op.newVault(&o.hosts, deploy.Request{})
}

// newVault wires the engine to evaluation, hosts, the state and the terminal. What is pushed to hosts is signed and substituted as request says. Close it.
func (op *operation) newVault(o *hostOptions, request deploy.Request) (*vault, error) {
	// From here on values may be in memory, and in that of children, such as an editor.
	if err := run.ForbidCores(); err != nil {
		return nil, err
	}
	c, err := op.newConnector(o)
	if err != nil {
		return nil, err
	}
	v, err := op.vaultOver(c, o, request)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return v, nil
}

func (op *operation) vaultOver(c *connector, o *hostOptions, request deploy.Request) (*vault, error) {
	pins, err := op.pins()
	if err != nil {
		return nil, err
	}
	store, err := state.Open(op.state.Dir(), op.plan.Fleet, run.RunnerFunc(run.Run))
	if err != nil {
		return nil, err
	}
	v := &vault{op: op, connector: c, pins: pins, source: deploy.NewSource(op.backend, op.snapshot, op.plan)}
	if v.trust, err = op.trust(o); err != nil {
		return nil, err
	}
	v.hosts = deploy.NewHosts(deploy.HostsOptions{
		Plan: op.plan, Connector: c, Reporter: op.reporter, Limit: o.limit(),
		Overrides:  deploy.Overrides{Transport: o.transport, AcceptNewHostKeys: o.acceptNewHostKeys, Pins: pins},
		Substitute: request.Substitute, Signer: request.Signer,
	})
	v.engine = &secretsgen.Engine{
		State: store, Plan: op.plan, Specs: v.specs, Pins: v.pinsOf, Trust: v.trust, Hosts: v.hosts, Programs: v.source,
		Local: op.runStep, Variable: takeVariable, Reporter: op.reporter, Now: time.Now, Limits: secretsgen.Limits{Hosts: o.limit()},
	}
	if op.canAsk() {
		v.engine.Person = person{op}
	}
	return v, nil
}

func (v *vault) specs(ctx context.Context, hosts []string) (map[string]plan.Specs, map[string]error, error) {
	return v.source.Specs(ctx, hosts)
}

// pinsOf are all keys that are pinned for a host, in the plan and in the state.
func (v *vault) pinsOf(host string) []string {
	keys := append([]string{}, v.op.plan.Hosts[host].Deploy.HostKeys...)
	pinned := v.pins[host]
	if len(pinned) == 0 {
		// Connecting to a host for the first time pins its key, after the others were read.
		pinned, _ = v.op.state.KeysOf(host)
	}
	return append(keys, pinned...)
}

// trust is what this machine has accepted for the hosts of this fleet in this work tree.
func (op *operation) trust(o *hostOptions) (*trust.Policy, error) {
	dir, err := evaluator.DefaultStateDir()
	if err != nil {
		return nil, err
	}
	store, err := trust.Open(dir, op.state.Dir()+"#"+op.plan.Fleet)
	if err != nil {
		return nil, err
	}
	policy := &trust.Policy{Store: store, KnownHosts: op.knownHosts(o), Now: time.Now}
	if op.canAsk() {
		policy.Confirm = op.confirmKey
	}
	return policy, nil
}

// knownHosts asks the user's known_hosts for hosts by their names in the fleet.
type knownHosts struct {
	op     *operation
	files  *transport.KnownHosts
	option deploy.Overrides
}

func (op *operation) knownHosts(o *hostOptions) knownHosts {
	return knownHosts{op: op, files: transport.NewKnownHosts(transport.Options{ConfigFile: o.sshConfig}), option: deploy.Overrides{Transport: o.transport}}
}

// Vouches implements [trust.KnownHosts].
func (k knownHosts) Vouches(ctx context.Context, host, key string) (bool, error) {
	described, ok := k.op.plan.Hosts[host]
	if !ok {
		return false, nil
	}
	spec, err := deploy.Spec(host, described, k.option)
	if err != nil {
		return false, err
	}
	return k.files.Vouches(ctx, spec.Target, key)
}

// confirmKey asks a person whether a key is a host's.
func (op *operation) confirmKey(ctx context.Context, q trust.Question) (bool, error) {
	lines := []string{
		fmt.Sprintf("host %s at %s", q.Host, q.Address),
		fmt.Sprintf("%s key %s", q.Kind, q.Fingerprint),
	}
	if len(q.Former) > 0 {
		lines = append(lines, "THE KEY HAS CHANGED: it was "+strings.Join(q.Former, ", "))
	}
	if len(q.Others) > 0 {
		lines = append(lines, "IT IS THE KEY OF ANOTHER HOST: "+strings.Join(q.Others, ", "))
	}
	lines = append(lines, "on the host's own console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
	return op.prompter.Yes(ctx, lines, "Is that the host's own key? Its secrets are encrypted to it.")
}

// runStep runs a generator on this machine.
func (op *operation) runStep(ctx context.Context, request step.Request) (step.Result, error) {
	emit := func(kind plan.EventKind, text string) {
		op.reporter.Emit(plan.Event{Time: time.Now(), Step: plan.StepSecrets, Kind: kind, Message: request.ID.String() + ": " + text})
	}
	return step.Run(ctx, request, step.Options{
		Helper: op.env.Executable, Project: op.state.Dir(),
		Reporter: func(line string) { emit(plan.EventLog, line) },
		Warn:     func(text string) { emit(plan.EventWarning, text) },
	})
}

// takeVariable takes a variable out of our environment, so that no child inherits it.
func takeVariable(name string) (secret.Plain, bool) {
	value, ok := os.LookupEnv(name)
	if !ok {
		return secret.Plain{}, false
	}
	if err := os.Unsetenv(name); err != nil {
		return secret.Plain{}, false
	}
	return secret.NewPlain([]byte(value)), true
}

// person asks for values on the terminal.
type person struct{ op *operation }

// Ask implements [secretsgen.Person].
func (p person) Ask(ctx context.Context, q secretsgen.Question) (secret.Plain, error) {
	prompt := fmt.Sprintf("%s, part %s: %s", q.ID, q.Part, q.Ask.Prompt)
	if q.Ask.From == "file" {
		path, err := p.op.prompter.Line(ctx, prompt+" (name of a file):")
		if err != nil {
			return secret.Plain{}, err
		}
		return readValueFile(path)
	}
	typed, err := p.op.prompter.NewSecret(ctx, prompt+" (not shown):")
	if err != nil {
		return secret.Plain{}, err
	}
	return checkValue(typed)
}
