package main

import (
	"context"
	"encoding/json"
	"os"

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
		return g.logged(env, "agent", func() error { return agent.Serve(ctx, host, *dir) })
	}
}

// newActivate makes the worker that runs inside of a transaction's unit.
func newActivate(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "activate",
		Summary: "Run a transaction on this host; started by its agent, not by people.",
		Help:    "Runs in a transient unit of its own, holds the host's lock, and writes its result into the transaction's folder.",
		Hidden:  true,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			dir := flags.String("txn", "", "`FOLDER` of the transaction")
			return func(ctx context.Context, env *cli.Env, _ []string) error {
				if *dir == "" {
					return cli.Usagef("--txn is missing")
				}
				host, err := agent.NewHost()
				if err != nil {
					return err
				}
				return g.logged(env, "activate", func() error { return agent.RunWorker(ctx, host, *dir) })
			}
		},
	}
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
