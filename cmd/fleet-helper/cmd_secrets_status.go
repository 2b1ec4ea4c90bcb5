package main

import (
	"context"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen"
)

// secretsSelectOptions are the flags of commands on several secrets.
type secretsSelectOptions struct {
	secretsOptions
	sel selectOptions
}

func newSecretsSelectOptions(g *globals, flags *pflag.FlagSet) *secretsSelectOptions {
	o := &secretsSelectOptions{secretsOptions: secretsOptions{global: g}}
	o.sel.addFlags(flags)
	o.addFlags(flags)
	return o
}

func newSecretsStatus(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "status",
		Args:    "[NAME]…",
		Summary: "Show how secrets stand, and what sync would do and why.",
		Help: `
It changes nothing and connects to no host. RULE is the row of the decision table in docs/guide/secrets.md. NAME may be a pattern, such as 'ca.*' or
'host/web-*/*'; --on takes the secrets that the selected hosts own. The exit code is 0 where sync would change nothing.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := newSecretsSelectOptions(g, flags)
			return func(ctx context.Context, env *cli.Env, args []string) error {
				return o.run(ctx, env, func(ctx context.Context, v *vault) (func() error, error) {
					selection, err := v.selection(ctx, &o.sel, args)
					if err != nil {
						return nil, err
					}
					status, err := v.engine.Status(ctx, selection)
					if err != nil {
						return nil, err
					}
					return func() error { return o.showStatus(env, status) }, nil
				})
			}
		},
	}
}

func (o *secretsSelectOptions) showStatus(env *cli.Env, status *secretsgen.Status) error {
	code := statusExit(status)
	var err error
	if o.json {
		err = writeJSON(env.Stdout, secretsStatusOutput{FormatVersion: outputVersion, ExitCode: int(code), Status: status})
	} else {
		err = writeSecretsStatus(env.Stdout, o.global, status, now())
	}
	if err != nil {
		return err
	}
	return cli.Status(int(code))
}
