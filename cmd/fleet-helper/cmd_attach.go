package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/push"
	"fleet/push/deploy"
	"fleet/push/proto"
)

// attachOptions are the flags of attach.
type attachOptions struct {
	fleet  fleetOptions
	hosts  hostOptions
	global *globals
	// socket makes this the host's side: a channel between the standard streams and an agent.
	socket string
}

func newAttach(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "attach",
		Args:    "HOST [TXN]",
		Summary: "Watch an activation that goes on on a host, or print one that has ended.",
		Help: `
Without TXN it is the newest one. The log is printed from its start; the exit code is that of the activation. Ctrl-C detaches
again and leaves the activation alone.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &attachOptions{global: g}
			o.fleet.addFlags(flags)
			o.hosts.addFlags(flags)
			flags.StringVar(&o.socket, "socket", "", "on a host: connect standard input and output to the agent at `PATH`")
			if err := flags.MarkHidden("socket"); err != nil {
				panic(err) // the flag is defined above
			}
			return o.run
		},
	}
}

func (o *attachOptions) run(ctx context.Context, env *cli.Env, args []string) error {
	if o.socket != "" {
		return attachSocket(ctx, env, o.socket)
	}
	if len(args) < 1 || len(args) > 2 {
		return cli.Usagef("attach needs the name of a host, and perhaps of a transaction")
	}
	if err := o.hosts.validate(); err != nil {
		return err
	}
	display := ui.ForResult(withoutColor(env, o.global))
	defer display.Close()
	op, err := openFleet(ctx, env, o.global, &o.fleet, display)
	if err != nil {
		return err
	}
	name := args[0]
	if _, err := (&selectOptions{on: []string{name}}).apply(op.plan, env.Stdin); err != nil {
		return err
	}
	if _, ok := op.plan.Hosts[name]; !ok {
		return cli.Usagef("attach needs the name of one host, not the selector %q", name)
	}
	txn := ""
	if len(args) == 2 {
		txn = args[1]
	}
	return o.attach(ctx, op, name, txn)
}

func (o *attachOptions) attach(ctx context.Context, op *operation, name, txn string) (err error) {
	session, closeAll, err := o.connect(ctx, op, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	status, err := session.Status(ctx, txn)
	if err != nil {
		return attachError(name, txn, err)
	}
	op.display.Close()
	fmt.Fprintf(op.env.Stderr, "%s: %s by %s since %s\n", name, status.Action, status.Owner, status.Since)
	var broken error
	log := run.NewLineWriter(func(line string) {
		if broken == nil {
			_, broken = fmt.Fprintln(op.env.Stdout, line)
		}
	})
	status, err = session.Attach(ctx, status.Txn, func(e proto.TxnEvent) {
		// A LineWriter's Write never fails.
		_, _ = log.Write([]byte(e.Log))
	})
	log.Flush()
	if err != nil {
		if ctx.Err() != nil {
			return context.Canceled
		}
		return attachError(name, txn, err)
	}
	return errors.Join(broken, o.conclude(op, deploy.FromStatus(name, status)))
}

// attachError says why there is nothing to watch.
func attachError(host, txn string, err error) error {
	var answer *push.AgentError
	if !errors.As(err, &answer) || answer.Code != proto.CodeNotFound && answer.Code != proto.CodeUsage {
		return &hostsError{Err: &deploy.HostError{Host: host, Step: "attach", Err: err}}
	}
	err = fmt.Errorf("attach on %q: %s", host, answer.Message)
	if txn == "" {
		return cli.WithHint(err, "nothing was activated there since it booted; fleet status shows what it runs")
	}
	return &cli.UsageError{Err: err, Remedy: fmt.Sprintf("the newest one: fleet attach %s; the reports of deploy and fleet status --json name others", host)}
}

// conclude says how the activation ended.
func (o *attachOptions) conclude(op *operation, report deploy.HostReport) error {
	all := &deploy.Report{Fleet: op.plan.Fleet, Hosts: []deploy.HostReport{report}}
	fmt.Fprint(op.env.Stderr, ui.HostText(report))
	return cli.Status(int(all.ExitCode()))
}

// connect opens a session with one host; closeAll ends it.
func (o *attachOptions) connect(ctx context.Context, op *operation, name string) (session *push.Session, closeAll func() error, err error) {
	c, err := op.newConnector(&o.hosts)
	if err != nil {
		return nil, nil, err
	}
	pins, err := op.pins()
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	spec, err := deploy.Spec(name, op.plan.Hosts[name], deploy.Overrides{Transport: o.hosts.transport, AcceptNewHostKeys: o.hosts.acceptNewHostKeys, Pins: pins})
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	session, err = c.Connector.Connect(ctx, spec)
	if err != nil {
		return nil, nil, errors.Join(&hostsError{Err: err}, c.Close())
	}
	return session, func() error { return errors.Join(session.Close(), c.Close()) }, nil
}
