package main

import (
	"context"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/evaluator"
)

// newJsonnetEval makes the child process that evaluates a Jsonnet plan within limits.
func newJsonnetEval() *cli.Command {
	return &cli.Command{
		Name:    "jsonnet-eval",
		Summary: "Evaluate Jsonnet within limits; started by the program itself.",
		Help:    "Reads a request from standard input, limits its own time and memory, and prints the answer.",
		Hidden:  true,
		New: func(*pflag.FlagSet) cli.RunFunc {
			return func(_ context.Context, env *cli.Env, _ []string) error {
				return evaluator.RunJsonnetChild(env.Stdin, env.Stdout)
			}
		},
	}
}
