package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/trust"
)

// changes is the run of a command that changes secrets and reports it.
func (o *secretsOptions) changes(ctx context.Context, env *cli.Env, change func(context.Context, *vault) (*secretsgen.Report, error)) error {
	return o.run(ctx, env, func(ctx context.Context, v *vault) (func() error, error) {
		report, err := change(ctx, v)
		return o.reported(ctx, env, v, report, err)
	})
}

// reported is what a change ends with. Where it was interrupted, what was finished until then is in the state, and is shown too: it has to be committed.
func (o *secretsOptions) reported(ctx context.Context, env *cli.Env, v *vault, report *secretsgen.Report, err error) (func() error, error) {
	if report == nil || err != nil && ctx.Err() == nil {
		return nil, err
	}
	return func() error { return o.finish(ctx, env, v, report) }, nil
}

func newSecretsSync(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "sync",
		Args:    "[NAME]…",
		Summary: "Make what is missing, re-encrypt for new owners and keys, remove former owners' copies.",
		Help: `
It does what status says. Every secret that is finished is saved at once; what failed is listed at the end, and the next run goes on with it. A key that this
machine has not accepted yet is shown and asked about; without a terminal its host is left out. Secrets that are not declared any more are left alone:
"secrets prune" removes them. Dependencies that have no value are made too, selected or not.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := newSecretsSelectOptions(g, flags)
			return func(ctx context.Context, env *cli.Env, args []string) error {
				return o.changes(ctx, env, func(ctx context.Context, v *vault) (*secretsgen.Report, error) {
					selection, err := v.selection(ctx, &o.sel, args)
					if err != nil {
						return nil, err
					}
					return v.engine.Sync(ctx, selection)
				})
			}
		},
	}
}

func newSecretsRekey(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "rekey",
		Args:    "[NAME]…",
		Summary: "Re-encrypt where an owner's key has changed or its copy is damaged, and do nothing else.",
		Help: `
Another owner seals its copy for the host; the value stays the same and is not shown to this machine. A value whose every owner has lost its key is
named: it must be generated or entered again.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := newSecretsSelectOptions(g, flags)
			return func(ctx context.Context, env *cli.Env, args []string) error {
				return o.changes(ctx, env, func(ctx context.Context, v *vault) (*secretsgen.Report, error) {
					selection, err := v.selection(ctx, &o.sel, args)
					if err != nil {
						return nil, err
					}
					return v.engine.Rekey(ctx, selection)
				})
			}
		},
	}
}

// regenerateOptions are the flags of regenerate and rotate.
type regenerateOptions struct {
	secretsOptions
	yes        bool
	readableBy string
}

func newSecretsRegenerate(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "regenerate",
		Args:    "NAME…",
		Summary: "Make new values, whatever the state is, and then those of secrets that depend on them.",
		Help: `
NAME may be a pattern. It asks first; without a terminal it takes --yes. The hosts get the new values with their next deployment: until then they use the old
ones, which other hosts may not accept any more.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &regenerateOptions{secretsOptions: secretsOptions{global: g}}
			o.addFlags(flags)
			flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
			return o.regenerate
		},
	}
}

func (o *regenerateOptions) regenerate(ctx context.Context, env *cli.Env, args []string) error {
	if len(args) == 0 {
		return &cli.UsageError{Err: errors.New("regenerate needs the names of secrets"), Remedy: "secrets status lists them; patterns are allowed, as in 'ca.*'"}
	}
	return o.changes(ctx, env, func(ctx context.Context, v *vault) (*secretsgen.Report, error) {
		ids, err := v.some(ctx, args, nil, false)
		if err != nil {
			return nil, err
		}
		return o.remake(ctx, v, ids, v.engine.Regenerate)
	})
}

// remake asks, then makes new values.
func (o *regenerateOptions) remake(ctx context.Context, v *vault, ids []secret.ID, make func(context.Context, []secret.ID) (*secretsgen.Report, error)) (*secretsgen.Report, error) {
	question := fmt.Sprintf("Make new values of %s?", these(ids))
	if err := v.agree(ctx, o.yes, texts(ids), question); err != nil {
		return nil, err
	}
	return make(ctx, ids)
}

func newSecretsRotate(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "rotate",
		Summary: "Make new values of all that a lost or compromised host could read.",
		Help: `
That is what the host owns, what it owned once and has not changed since, what was generated on it, and what was made from any of these. Those whose values a person
gave are listed: set them anew. Take the host out of the fleet, or give it a new key, first: as long as it is an owner, the new values are encrypted for it as well.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &regenerateOptions{secretsOptions: secretsOptions{global: g}}
			o.addFlags(flags)
			flags.StringVar(&o.readableBy, "readable-by", "", "what `HOST` can or could read; also a host that is not in the fleet any more")
			flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
			return o.rotate
		},
	}
}

func (o *regenerateOptions) rotate(ctx context.Context, env *cli.Env, _ []string) error {
	if o.readableBy == "" {
		return &cli.UsageError{Err: errors.New("rotate needs --readable-by HOST"), Remedy: "single secrets: fleet secrets regenerate NAME"}
	}
	return o.changes(ctx, env, func(ctx context.Context, v *vault) (*secretsgen.Report, error) {
		ids, err := v.engine.ReadableBy(ctx, o.readableBy)
		if err != nil {
			return nil, err
		}
		if _, known := v.op.plan.Hosts[o.readableBy]; len(ids) == 0 && !known {
			return nil, v.unknownHost(o.readableBy)
		}
		if len(ids) == 0 {
			return &secretsgen.Report{Fleet: v.op.plan.Fleet}, nil
		}
		if still, err := v.keepsKey(o.readableBy); err != nil {
			return nil, err
		} else if still {
			v.op.display.Log(fmt.Sprintf("warning: %[1]s is in the fleet with the key that it had: what it owns is encrypted for it again; take it out of the fleet, or give it a new key, and rotate once more", o.readableBy))
		}
		return o.remake(ctx, v, ids, func(ctx context.Context, _ []secret.ID) (*secretsgen.Report, error) {
			return v.engine.Rotate(ctx, o.readableBy)
		})
	})
}

// keepsKey says whether a host of the fleet has a key pinned that its secrets were encrypted to all the time: who has that key reads the new values, too.
func (v *vault) keepsKey(host string) (bool, error) {
	if _, ok := v.op.plan.Hosts[host]; !ok {
		return false, nil
	}
	used, err := v.engine.KeysInUse()
	return slices.ContainsFunc(v.pinsOf(host), func(pin string) bool {
		fingerprint, err := trust.Fingerprint(pin)
		return err == nil && slices.Contains(used[host], fingerprint)
	}), err
}
