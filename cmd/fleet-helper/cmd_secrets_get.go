package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

// getOptions are the flags of get.
type getOptions struct {
	oneSecretOptions
	part string
}

func newSecretsGet(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "get",
		Args:    "NAME",
		Summary: "Print a value: one of its owners decrypts it.",
		Help: `
An owner opens it and sends it over the SSH session; it is printed on standard output as it is, and a terminal gets a newline after it where it has none. A value that
is no text is not printed on a terminal. Public parts come from the state, without a connection.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &getOptions{oneSecretOptions: oneSecretOptions{secretsOptions: secretsOptions{global: g}}}
			o.fleet.addFlakeFlags(flags)
			o.hosts.addFlags(flags)
			flags.StringVar(&o.host, "host", "", "the secret of `HOST`, where several hosts have one of that name")
			flags.StringVar(&o.part, "part", "", "print the part `NAME`; by default secret, or the only one")
			return o.get
		},
	}
}

func (o *getOptions) get(ctx context.Context, env *cli.Env, args []string) error {
	if err := oneName("get", args); err != nil {
		return err
	}
	return o.run(ctx, env, func(ctx context.Context, v *vault) (func() error, error) {
		status, err := v.one(ctx, args[0], o.host)
		if err != nil {
			return nil, err
		}
		part, err := partOf(status, o.part)
		if err != nil {
			return nil, err
		}
		value, err := v.engine.Get(ctx, status.ID, part)
		if err != nil {
			return nil, err
		}
		return func() error {
			defer value.Wipe()
			return printValue(env, status.ID, part, value)
		}, nil
	})
}

// partOf checks a part's name against those that the value has, and picks one where there is no name.
func partOf(status secretsgen.SecretStatus, name string) (string, error) {
	switch {
	case name == "":
		return onePart(status.ID, status.Parts)
	case len(status.Parts) > 0 && !slices.Contains(status.Parts, name):
		remedy := cli.DidYouMean(name, status.Parts, "")
		if remedy == "" {
			remedy = "it has: " + strings.Join(status.Parts, ", ")
		}
		return "", &cli.UsageError{Err: fmt.Errorf("%s has no part %q", status.ID, name), Remedy: remedy}
	}
	return name, nil
}

// printValue writes the value itself to standard output.
func printValue(env *cli.Env, id secret.ID, part string, value secret.Plain) error {
	data := value.Bytes()
	if env.StdoutTerminal && !isText(data) {
		return cli.WithHint(fmt.Errorf("print part %q of %s on the terminal: it is no text (%d bytes)", part, id, len(data)), "write it to a file, or pipe it to a program that takes it")
	}
	if _, err := env.Stdout.Write(data); err != nil {
		return fmt.Errorf("print part %q of %s: %w", part, id, err)
	}
	if env.StdoutTerminal && len(data) > 0 && data[len(data)-1] != '\n' {
		_, _ = env.Stdout.Write([]byte("\n")) // a nicety
	}
	return nil
}
