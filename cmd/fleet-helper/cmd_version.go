package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/evaluator/plan"
	"fleet/push/proto"
)

func newVersion() *cli.Command {
	return &cli.Command{
		Name:    "version",
		Summary: "Print the versions of the program, of its protocol and of the plans that it reads.",
		Help:    "The version of the protocol must be the same on the operator's machine and on a host; the helper that is pushed makes sure of it.",
		New: func(*pflag.FlagSet) cli.RunFunc {
			return func(_ context.Context, env *cli.Env, _ []string) error {
				_, err := fmt.Fprintf(env.Stdout, "fleet %s\nprotocol %d\nplan %d\n%s %s/%s\n",
					env.Version, proto.Version, plan.FormatVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return err
			}
		},
	}
}
