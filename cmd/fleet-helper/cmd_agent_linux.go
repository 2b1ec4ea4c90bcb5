package main

import (
	"context"
	"encoding/json"
	"os"
	"runtime/debug"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/logging"
	"fleet/push/agent"
)

// newAgent makes the commands that the operator's side runs on a host.
func newAgent(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "agent",
		Summary: "The host's side of a session; started by deploy, not by people.",
		Help:    "The operator's side pushes this program to a host and starts it there by its store path.",
		Hidden:  true,
		Sub: []*cli.Command{
			{
				Name:    "start",
				Summary: "Start an agent outside of this process, and print how to reach it.",
				Help:    "Runs elevated on the first channel of a session, and ends once the agent listens. Prints one line of JSON, with the session's token.",
				Hidden:  true,
				New:     newAgentStart,
			},
			{
				Name:    "serve",
				Summary: "Be the agent of a session.",
				Help:    "Ends when no client was attached for the session's grace time, and when a client ends the session.",
				Hidden:  true,
				New:     g.newAgentServe,
			},
		},
	}
}

func newAgentStart(flags *pflag.FlagSet) cli.RunFunc {
	owner := flags.Int("owner", os.Getuid(), "`UID` of the user who may attach, beside root")
	return func(ctx context.Context, env *cli.Env, _ []string) error {
		host, err := agent.NewHost()
		if err != nil {
			return err
		}
		ready, err := agent.Start(ctx, host, agent.StartOptions{Owner: *owner})
		if err != nil {
			return err
		}
		return json.NewEncoder(env.Stdout).Encode(ready)
	}
}

func (g *globals) newAgentServe(flags *pflag.FlagSet) cli.RunFunc {
	dir := flags.String("dir", "", "`FOLDER` of the session, which start made")
	return func(ctx context.Context, env *cli.Env, _ []string) error {
		if *dir == "" {
			return cli.Usagef("--dir is missing")
		}
		// It opens secrets, and is root.
		if err := run.ForbidCores(); err != nil {
			return err
		}
		host, err := agent.NewHost()
		if err != nil {
			return err
		}
		debug.SetMemoryLimit(agent.MemoryLimit)
		return g.logged(env, "agent", func() error { return agent.Serve(ctx, host, *dir) })
	}
}

// newActivate makes the worker of a dry activation.
func newActivate(g *globals) *cli.Command {
	return g.ofTxn("activate", "Run a dry activation on this host; started by its agent, not by people.", agent.RunDry)
}

// newGuard makes the processes that see an activation through on a host.
func newGuard(g *globals) []*cli.Command {
	return []*cli.Command{
		g.ofTxn("guard", "Guard a transaction on this host; started by its agent, not by people.", agent.RunGuard),
		{
			Name:    "guard-worker",
			Summary: "Run one switch-to-configuration of a transaction; started by its guard, not by people.",
			Help:    "Runs in a transient unit of its own, and leaves the program's exit code in the transaction's folder.",
			Hidden:  true,
			New: func(flags *pflag.FlagSet) cli.RunFunc {
				txn := flags.String("txn", "", "`NAME` of the transaction")
				number := flags.Int("number", 0, "`NUMBER` of the worker")
				return func(ctx context.Context, env *cli.Env, _ []string) error {
					return g.onHost(env, "guard-worker", func(host *agent.Host) error { return agent.RunGuardWorker(ctx, host, *txn, *number) })
				}
			},
		},
		{
			Name:    "guard-reboot",
			Summary: "Reboot this host, by force where it does not go down by itself; started by a guard, not by people.",
			Help:    "Asks systemd, then has it wait for nothing, then reboots by the kernel alone.",
			Hidden:  true,
			New: func(*pflag.FlagSet) cli.RunFunc {
				return func(ctx context.Context, env *cli.Env, _ []string) error {
					return g.onHost(env, "guard-reboot", func(host *agent.Host) error { return agent.RunReboot(ctx, host) })
				}
			},
		},
		{
			Name:    "boot-guard",
			Summary: "Go on with activations after a boot; fleet-boot-guard.service runs it.",
			Help:    "Starts the guard of the transaction that has not ended, and ends with it. It activates nothing itself.",
			Hidden:  true,
			New: func(*pflag.FlagSet) cli.RunFunc {
				return func(ctx context.Context, env *cli.Env, _ []string) error {
					return g.onHost(env, "boot-guard", func(host *agent.Host) error { return agent.BootGuard(ctx, host, agent.TellReady) })
				}
			},
		},
		{
			Name:    "may-bless",
			Summary: "Say whether the present boot is good; a condition of systemd-bless-boot.service.",
			Help:    "Fails while the system that was booted is one that a transaction tries out.",
			Hidden:  true,
			New: func(*pflag.FlagSet) cli.RunFunc {
				return func(_ context.Context, env *cli.Env, _ []string) error {
					return g.onHost(env, "may-bless", agent.MayBless)
				}
			},
		},
	}
}

// ofTxn makes a command whose one argument is a transaction.
func (g *globals) ofTxn(name, summary string, run func(context.Context, *agent.Host, string) error) *cli.Command {
	return &cli.Command{
		Name: name, Summary: summary, Hidden: true,
		Help: "Runs in a transient unit of its own, and writes what comes of it into the transaction's files.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			txn := flags.String("txn", "", "`NAME` of the transaction")
			return func(ctx context.Context, env *cli.Env, _ []string) error {
				if *txn == "" {
					return cli.Usagef("--txn is missing")
				}
				return g.onHost(env, name, func(host *agent.Host) error { return run(ctx, host, *txn) })
			}
		},
	}
}

// onHost runs a process of the host's side.
func (g *globals) onHost(env *cli.Env, what string, f func(*agent.Host) error) error {
	host, err := agent.NewHost()
	if err != nil {
		return err
	}
	return g.logged(env, what, func() error { return f(host) })
}

// logged runs a process of the host's side, whose standard error is the journal.
func (g *globals) logged(env *cli.Env, what string, f func() error) error {
	if err := g.validate(); err != nil {
		return err
	}
	log, err := logging.New(env.Stderr, g.logLevel, g.logFormat)
	if err != nil {
		return err
	}
	log.WithFields(logrus.Fields{"process": what}).Info("begins")
	err = f()
	log.WithFields(logrus.Fields{"process": what}).Info("ends")
	return err
}

// attachSocket connects the standard streams to an agent on this host.
func attachSocket(ctx context.Context, env *cli.Env, socket string) error {
	return agent.Attach(ctx, socket, env.Stdin, env.Stdout)
}

// attachGuard connects the standard streams to the guard of a transaction on this host.
func attachGuard(ctx context.Context, env *cli.Env, txn string) error {
	host, err := agent.NewHost()
	if err != nil {
		return err
	}
	return agent.AttachGuard(ctx, host, txn, env.Stdin, env.Stdout)
}
