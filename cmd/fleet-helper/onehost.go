package main

import (
	"context"
	"errors"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/push"
	"fleet/push/deploy"
)

// oneHost is what the commands share that are about one transaction of one host.
type oneHost struct {
	fleet  fleetOptions
	hosts  hostOptions
	global *globals
}

func (o *oneHost) addFlags(flags *pflag.FlagSet) {
	o.fleet.addFlags(flags)
	o.hosts.addFlags(flags)
}

// run reads HOST [TXN], connects, and does the command's work; an empty txn means that none was named.
func (o *oneHost) run(ctx context.Context, env *cli.Env, command string, args []string, work func(ctx context.Context, op *operation, session *push.Session, name, txn string) error) (err error) {
	if len(args) < 1 || len(args) > 2 {
		return cli.Usagef("%s needs the name of a host, and perhaps of a transaction", command)
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
		return cli.Usagef("%s needs the name of one host, not the selector %q", command, name)
	}
	txn := ""
	if len(args) == 2 {
		txn = args[1]
	}
	session, closeAll, err := o.connect(ctx, op, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	return work(ctx, op, session, name, txn)
}

// connect opens a session with one host; closeAll ends it.
func (o *oneHost) connect(ctx context.Context, op *operation, name string) (session *push.Session, closeAll func() error, err error) {
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
