package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen"
)

// pruneOptions are the flags of prune.
type pruneOptions struct {
	secretsSelectOptions
	yes bool
}

func newSecretsPrune(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "prune",
		Args:    "[NAME]…",
		Summary: "Remove secrets from the state that nothing declares any more.",
		Help: `
It lists them and asks first; without a terminal it takes --yes. Secrets of a host whose declarations do not evaluate are left alone. Git's history keeps what is
removed, sealed as it was.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &pruneOptions{secretsSelectOptions: *newSecretsSelectOptions(g, flags)}
			flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
			return o.prune
		},
	}
}

func (o *pruneOptions) prune(ctx context.Context, env *cli.Env, args []string) error {
	return o.changes(ctx, env, func(ctx context.Context, v *vault) (*secretsgen.Report, error) {
		selection, err := v.selection(ctx, &o.sel, args)
		if err != nil {
			return nil, err
		}
		ids, problems, err := v.engine.Undeclared(ctx, selection)
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			return &secretsgen.Report{Fleet: v.op.plan.Fleet, Hosts: problems}, nil
		}
		if err := v.agree(ctx, o.yes, texts(ids), fmt.Sprintf("Remove %s from the state?", these(ids))); err != nil {
			return nil, err
		}
		report, err := v.engine.Prune(ctx, ids)
		if err == nil {
			report.Hosts = append(report.Hosts, problems...)
		}
		return report, err
	})
}

func newSecretsAccept(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "accept",
		Args:    "NAME…",
		Summary: "Take the present value as that of a changed declaration, in place of a new one.",
		Help: `
Changed arguments, scripts and dependencies of these secrets then ask for a new value no more. The value itself and its files stay as they are; only the
metadata changes.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &secretsOptions{global: g}
			o.addFlags(flags)
			return func(ctx context.Context, env *cli.Env, args []string) error {
				if len(args) == 0 {
					return &cli.UsageError{Err: errors.New("accept needs the name of a secret"), Remedy: "secrets status lists those that have changed"}
				}
				return o.changes(ctx, env, func(ctx context.Context, v *vault) (*secretsgen.Report, error) {
					ids, err := v.some(ctx, args, nil, false)
					if err != nil {
						return nil, err
					}
					return v.engine.Accept(ctx, ids)
				})
			}
		},
	}
}
