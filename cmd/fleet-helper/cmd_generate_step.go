package main

import (
	"context"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen/step"
)

// newGenerateStep makes the child process that runs a generator in namespaces of its own.
func newGenerateStep() *cli.Command {
	return &cli.Command{
		Name:    step.ChildCommand,
		Summary: "Run a generator in a private folder; started by the program itself.",
		Help:    "Reads a request from standard input, and prints the sealed value.",
		Hidden:  true,
		New: func(*pflag.FlagSet) cli.RunFunc {
			return func(ctx context.Context, env *cli.Env, _ []string) error {
				return step.Child(ctx, env.Stdin, env.Stdout)
			}
		},
	}
}
