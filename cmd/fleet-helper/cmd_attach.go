package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/deploy"
	"fleet/push/proto"
)

// attachOptions are the flags of attach.
type attachOptions struct {
	oneHost
	// socket and guard make this the host's side: a channel between the standard streams and an agent, or the guard of a transaction.
	socket, guard string
}

func newAttach(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "attach",
		Args:    "HOST [TXN]",
		Summary: "Watch an activation that goes on on a host, or print one that has ended.",
		Help: `
Without TXN it is the newest one; "fleet status --transactions" lists them, whoever has begun them. The log is printed from its start; the exit code is that of
the activation. One that waits for a confirmation is only watched: "fleet confirm" confirms it. Ctrl-C detaches again and leaves the activation alone.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &attachOptions{oneHost: oneHost{global: g}}
			o.addFlags(flags)
			flags.StringVar(&o.socket, "socket", "", "on a host: connect standard input and output to the agent at `PATH`")
			flags.StringVar(&o.guard, "guard", "", "on a host: connect standard input and output to the guard of the transaction `TXN`")
			for _, hidden := range []string{"socket", "guard"} {
				if err := flags.MarkHidden(hidden); err != nil {
					panic(err) // the flags are defined above
				}
			}
			return o.run
		},
	}
}

func (o *attachOptions) run(ctx context.Context, env *cli.Env, args []string) error {
	if o.socket != "" {
		return attachSocket(ctx, env, o.socket)
	}
	if o.guard != "" {
		return attachGuard(ctx, env, o.guard)
	}
	return o.oneHost.run(ctx, env, "attach", args, o.attach)
}

func (o *attachOptions) attach(ctx context.Context, op *operation, session *push.Session, name, txn string) error {
	status, err := session.Status(ctx, txn)
	if err != nil {
		return txnError("attach", name, txn, err)
	}
	op.display.Close()
	fmt.Fprintf(op.env.Stderr, "%s: %s by %s since %s\n", name, status.Action, status.Owner, status.Since)
	status, broken, err := o.follow(ctx, op, session, name, status.Txn)
	if err != nil {
		if ctx.Err() != nil {
			return context.Canceled
		}
		return txnError("attach", name, txn, err)
	}
	return errors.Join(broken, conclude(op, deploy.FromStatus(name, status)))
}

// follow prints a transaction's log and states until it has ended. A rollback that goes on failing is such an end.
func (o *attachOptions) follow(ctx context.Context, op *operation, session *push.Session, name, txn string) (status proto.TxnStatus, broken, err error) {
	log := run.NewLineWriter(func(line string) {
		if broken == nil {
			_, broken = fmt.Fprintln(op.env.Stdout, line)
		}
	})
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var failing bool
	status, err = session.Attach(watching, txn, func(e proto.TxnEvent) {
		// A LineWriter's Write never fails.
		_, _ = log.Write([]byte(e.Log))
		if text := deploy.PhaseText(e.State); text != "" {
			fmt.Fprintf(op.env.Stderr, "%s: %s\n", name, text)
		}
		switch e.State {
		case proto.TxnAwaitConfirm:
			fmt.Fprintf(op.env.Stderr, "  hint: fleet confirm %s %s, or it goes back to the old system\n", name, txn)
		case proto.TxnRollbackFailed:
			failing = true
			stop()
		}
	})
	log.Flush()
	if failing && ctx.Err() == nil {
		status, err = session.Status(ctx, txn)
	}
	return status, broken, err
}

// txnError says why a command about a transaction has come to nothing.
func txnError(command, host, txn string, err error) error {
	var answer *push.AgentError
	if !errors.As(err, &answer) || answer.Code != proto.CodeNotFound && answer.Code != proto.CodeUsage {
		return &hostsError{Err: &deploy.HostError{Host: host, Step: plan.Step(command), Err: err}}
	}
	err = fmt.Errorf("%s on %q: %s", command, host, answer.Message)
	if txn == "" {
		return cli.WithHint(err, "nothing was activated there; fleet status shows what it runs")
	}
	return &cli.UsageError{Err: err, Remedy: fmt.Sprintf("fleet status --on %s --transactions lists those that the host knows", host)}
}

// conclude says how the activation ended.
func conclude(op *operation, report deploy.HostReport) error {
	all := &deploy.Report{Fleet: op.plan.Fleet, Hosts: []deploy.HostReport{report}}
	fmt.Fprint(op.env.Stderr, ui.HostText(report))
	return cli.Status(int(all.ExitCode()))
}
