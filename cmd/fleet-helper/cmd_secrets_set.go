package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

// oneSecretOptions are the flags of commands on one secret.
type oneSecretOptions struct {
	secretsOptions
	host string
}

func (o *oneSecretOptions) addFlags(flags *pflag.FlagSet) {
	o.secretsOptions.addFlags(flags)
	flags.StringVar(&o.host, "host", "", "the secret of `HOST`, where several hosts have one of that name")
}

// setOptions are the flags of set.
type setOptions struct {
	oneSecretOptions
	parts []string
	raw   bool
}

func newSecretsSet(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "set",
		Args:    "NAME",
		Summary: "Give a secret a value, from standard input or typed at a prompt.",
		Help: `
The value is what standard input holds, or, on a terminal, what is typed twice without being shown; it is never an argument. One line loses its newline,
which is the shell's; several lines are taken as they are. It is encrypted to the owners here, and only they can read it afterwards.

    pass show gitlab | nix run .#secrets -- set gitlab-token
    nix run .#secrets -- set ca --part public=ca.pem --part secret=ca.key`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &setOptions{oneSecretOptions: oneSecretOptions{secretsOptions: secretsOptions{global: g}}}
			o.addFlags(flags)
			flags.StringArrayVar(&o.parts, "part", nil, "the part to set, as `NAME`, or NAME=FILE to read it from a file; may be repeated; by default secret, or the only one")
			flags.BoolVar(&o.raw, "raw", false, "keep the newline at the end of a single line")
			return o.set
		},
	}
}

// oneName checks the positional argument of commands on one secret.
func oneName(command string, args []string) error {
	switch {
	case len(args) == 0:
		return &cli.UsageError{Err: fmt.Errorf("%s needs the name of a secret", command), Remedy: "secrets status lists them"}
	case len(args) > 1:
		return &cli.UsageError{Err: fmt.Errorf("%s takes one secret, not %d", command, len(args)), Remedy: "values are never arguments: they come from standard input or the terminal"}
	}
	return nil
}

func (o *setOptions) set(ctx context.Context, env *cli.Env, args []string) error {
	if err := oneName("set", args); err != nil {
		return err
	}
	sources, err := parseParts(o.parts)
	if err != nil {
		return err
	}
	return o.changes(ctx, env, func(ctx context.Context, v *vault) (*secretsgen.Report, error) {
		status, err := v.one(ctx, args[0], o.host)
		if err != nil {
			return nil, err
		}
		if sources == nil {
			if sources, err = v.partsToSet(ctx, status); err != nil {
				return nil, err
			}
		}
		values, err := o.readParts(ctx, v, status.ID, sources)
		if err != nil {
			return nil, err
		}
		return v.engine.Set(ctx, status.ID, values)
	})
}

// partSource is a part and the file that it is read from; "-" and empty are standard input or a prompt.
type partSource struct{ part, file string }

// parseParts reads --part.
func parseParts(flags []string) ([]partSource, error) {
	var sources []partSource
	seen := map[string]bool{}
	for _, flag := range flags {
		name, file, _ := strings.Cut(flag, "=")
		if err := secret.ValidatePart(name); err != nil {
			return nil, &cli.UsageError{Err: fmt.Errorf("--part: %w", err), Remedy: "write it as --part NAME or --part NAME=FILE"}
		}
		if seen[name] {
			return nil, cli.Usagef("--part %s is there twice", name)
		}
		seen[name] = true
		if file == "-" {
			file = ""
		}
		sources = append(sources, partSource{name, file})
	}
	return sources, nil
}

// readParts reads the values. What was read is wiped where one of them fails.
func (o *setOptions) readParts(ctx context.Context, v *vault, id secret.ID, sources []partSource) (_ map[string]secret.Plain, err error) {
	values := map[string]secret.Plain{}
	defer func() {
		if err != nil {
			for _, value := range values {
				value.Wipe()
			}
		}
	}()
	fromInput := 0
	for _, s := range sources {
		if s.file == "" {
			fromInput++
		}
	}
	if fromInput > 1 && !v.op.env.StdinTerminal {
		return nil, &cli.UsageError{Err: fmt.Errorf("%d parts cannot all be read from one standard input", fromInput), Remedy: "name files: --part NAME=FILE; or call it on a terminal and type them"}
	}
	spec, err := v.spec(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, s := range sources {
		var value secret.Plain
		if s.file == "" {
			value, err = readNewValue(ctx, v.op.env, v.op.prompter, valueQuestion(id, s.part, spec), o.raw)
		} else {
			value, err = readValueFile(s.file)
		}
		if err != nil {
			return values, fmt.Errorf("part %q of %s: %w", s.part, id, err)
		}
		values[s.part] = value
	}
	return values, nil
}

// valueQuestion asks for a part; that everybody will be able to read it is said before it is typed.
func valueQuestion(id secret.ID, part string, spec *plan.Secret) string {
	if spec != nil {
		if declared, ok := spec.Parts[part]; ok && !declared.Encrypted {
			return fmt.Sprintf("value of %s, part %s, which is PUBLIC: it will be in git for everybody to read (not shown):", id, part)
		}
	}
	return fmt.Sprintf("value of %s, part %s (not shown):", id, part)
}

// readValueFile reads a value from a file, as it is.
func readValueFile(path string) (secret.Plain, error) {
	f, err := os.Open(path)
	if err != nil {
		return secret.Plain{}, fmt.Errorf("read the value: %w", err)
	}
	defer f.Close()
	value, err := readBounded(f)
	if err != nil {
		return secret.Plain{}, fmt.Errorf("read the value from %q: %w", path, err)
	}
	return checkValue(value)
}

// partsToSet is what set means without --part: every part of a secret that has no value yet, else the one that there is to set.
func (v *vault) partsToSet(ctx context.Context, status secretsgen.SecretStatus) ([]partSource, error) {
	declared, err := v.declaredParts(ctx, status.ID)
	if err != nil {
		return nil, err
	}
	if len(declared) > 0 && status.Gen == "" {
		var sources []partSource
		for _, part := range declared {
			sources = append(sources, partSource{part: part})
		}
		return sources, nil
	}
	if len(declared) == 0 {
		declared = status.Parts
	}
	part, err := onePart(status.ID, declared)
	return []partSource{{part: part}}, err
}

// declaredParts lists the parts that a secret is declared with, sorted; none where what its generator makes is the list.
func (v *vault) declaredParts(ctx context.Context, id secret.ID) ([]string, error) {
	spec, err := v.spec(ctx, id)
	if err != nil || spec == nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(spec.Parts)), nil
}

// spec is a secret's declaration, nil where there is none.
func (v *vault) spec(ctx context.Context, id secret.ID) (*plan.Secret, error) {
	host, own := id.Scope.Host()
	if !own {
		if spec, ok := v.op.plan.SharedSecrets[id.Name]; ok {
			return &spec, nil
		}
		return nil, nil
	}
	if _, ok := v.op.plan.Hosts[host]; !ok {
		return nil, nil
	}
	specs, failed, err := v.specs(ctx, []string{host})
	if err = errors.Join(err, failed[host]); err != nil {
		return nil, err
	}
	if spec, ok := specs[host].Secrets[id.Name]; ok {
		return &spec, nil
	}
	return nil, nil
}

// onePart picks a part where none is named: the one that is called secret, else the only one.
func onePart(id secret.ID, parts []string) (string, error) {
	switch {
	case len(parts) == 0 || slices.Contains(parts, secret.PartSecret):
		return secret.PartSecret, nil
	case len(parts) == 1:
		return parts[0], nil
	}
	return "", &cli.UsageError{Err: fmt.Errorf("%s has several parts", id), Remedy: "name one with --part: " + strings.Join(parts, ", ")}
}
