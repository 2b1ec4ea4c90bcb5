package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/push"
	"fleet/push/deploy"
	"fleet/push/proto"
)

func newConfirm(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "confirm",
		Args:    "HOST [TXN]",
		Summary: "Confirm an activation that waits for it, from any machine that can deploy to the host.",
		Help: `
It does what "fleet deploy" does at the end of an activation: it connects anew, becomes root there, which proves that the host can be deployed to again, tells the
host's guard, and waits for the end. Health checks that others than the host make are left to you. Without TXN it is the open one. The exit code is that of
the activation.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &oneHost{global: g}
			o.addFlags(flags)
			return func(ctx context.Context, env *cli.Env, args []string) error {
				return o.run(ctx, env, "confirm", args, confirm)
			}
		},
	}
}

// notWaitingError says that there is nothing to confirm.
type notWaitingError struct {
	host   string
	status proto.TxnStatus
}

func (e *notWaitingError) Error() string {
	if e.status.Txn == "" {
		return fmt.Sprintf("confirm on %q: no activation is open there", e.host)
	}
	return fmt.Sprintf("confirm %s on %q: it does not wait for a confirmation: it is %s", e.status.Txn, e.host, e.status.State)
}

// Hint says how to look at it.
func (e *notWaitingError) Hint() string {
	if e.status.Txn == "" {
		return fmt.Sprintf("fleet status --on %s --transactions lists what was activated there", e.host)
	}
	return fmt.Sprintf("fleet attach %s %s", e.host, e.status.Txn)
}

func confirm(ctx context.Context, op *operation, session *push.Session, name, txn string) error {
	status, err := named(ctx, session, txn)
	if err != nil {
		return txnError("confirm", name, txn, err)
	}
	if status.State != proto.TxnAwaitConfirm {
		return &hostsError{Err: &notWaitingError{host: name, status: status}}
	}
	op.display.Close()
	fmt.Fprintf(op.env.Stderr, "%s: confirming %s (%s by %s since %s)\n", name, status.Txn, status.Action, status.Owner, status.Since)
	nonce, err := session.Nonce(ctx, status.Txn)
	if err == nil {
		err = session.Confirm(ctx, status.Txn, nonce)
	}
	if err != nil {
		return txnError("confirm", name, txn, err)
	}
	if status, err = session.Attach(ctx, status.Txn, nil); err != nil {
		return txnError("confirm", name, txn, err)
	}
	return conclude(op, deploy.FromStatus(name, status))
}

// named is the transaction of that name, or the open one; its zero value where there is none.
func named(ctx context.Context, session *push.Session, txn string) (proto.TxnStatus, error) {
	if txn != "" {
		return session.Status(ctx, txn)
	}
	if open := session.Info().Open; open != nil {
		return *open, nil
	}
	return proto.TxnStatus{}, nil
}

func newAbort(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "abort",
		Args:    "HOST [TXN]",
		Summary: "Take an activation back that was not confirmed yet.",
		Help: `
The host goes back to its old system, and that is waited for; a boot that was staged is unstaged. What is being made the boot default already, or is on its way
back, is left alone. Without TXN it is the open one. The exit code is 0 once the old system runs and boots.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &oneHost{global: g}
			o.addFlags(flags)
			return func(ctx context.Context, env *cli.Env, args []string) error {
				return o.run(ctx, env, "abort", args, abort)
			}
		},
	}
}

func abort(ctx context.Context, op *operation, session *push.Session, name, txn string) error {
	status, err := named(ctx, session, txn)
	if err != nil {
		return txnError("abort", name, txn, err)
	}
	if status.Txn == "" {
		return &hostsError{Err: cli.WithHint(fmt.Errorf("abort on %q: no activation is open there", name), fmt.Sprintf("fleet status --on %s --transactions lists what was activated there", name))}
	}
	if status.State.Done() && status.State != proto.TxnStaged {
		return &hostsError{Err: cli.WithHint(fmt.Errorf("abort %s on %q: it has ended: it is %s", status.Txn, name, status.State), fmt.Sprintf("fleet deploy rollback --on %s goes back to an older generation", name))}
	}
	op.display.Close()
	fmt.Fprintf(op.env.Stderr, "%s: aborting %s (%s by %s since %s)\n", name, status.Txn, status.Action, status.Owner, status.Since)
	if status, err = session.Abort(ctx, status.Txn, owner(op.env)); err != nil {
		if ctx.Err() != nil {
			return context.Canceled
		}
		return txnError("abort", name, txn, err)
	}
	if status.State == proto.TxnRolledBack {
		_, err := fmt.Fprintf(op.env.Stdout, "%s: %s: %s\n", name, deploy.OutcomeRolledBack, deploy.VerdictOld)
		return err
	}
	return conclude(op, deploy.FromStatus(name, status))
}
