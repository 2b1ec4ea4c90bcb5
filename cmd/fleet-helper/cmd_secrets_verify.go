package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/text"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/push/deploy"
	"fleet/secretsgen"
)

// verifyOutput is what secrets verify --json prints.
type verifyOutput struct {
	FormatVersion int `json:"formatVersion"`
	ExitCode      int `json:"exitCode"`
	*secretsgen.Verification
}

func newSecretsVerify(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "verify",
		Args:    "[NAME]…",
		Summary: "Have the owners decrypt what they own, and compare it with what it should be.",
		Help: `
It proves what no check without a key can: that every file opens on its owner, and that all owners hold the same value. Nothing is shown to anybody, and nothing
is changed. The exit code is 5 where a value is wrong, 3 where a host could not be asked.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := newSecretsSelectOptions(g, flags)
			return func(ctx context.Context, env *cli.Env, args []string) error {
				return o.run(ctx, env, func(ctx context.Context, v *vault) (func() error, error) {
					selection, err := v.selection(ctx, &o.sel, args)
					if err != nil {
						return nil, err
					}
					found, err := v.engine.Verify(ctx, selection)
					if err != nil {
						return nil, err
					}
					return func() error { return o.showVerification(env, found) }, nil
				})
			}
		},
	}
}

func verifyExit(v *secretsgen.Verification) deploy.ExitCode {
	switch {
	case len(v.Wrong) > 0:
		return deploy.ExitSecrets
	case len(v.Unreachable) > 0:
		return deploy.ExitHostsFailed
	}
	return deploy.ExitOK
}

func (o *secretsSelectOptions) showVerification(env *cli.Env, v *secretsgen.Verification) error {
	code := int(verifyExit(v))
	var err error
	if o.json {
		err = writeJSON(env.Stdout, verifyOutput{FormatVersion: outputVersion, ExitCode: code, Verification: v})
	} else {
		err = writeVerification(env.Stdout, o.global, v)
	}
	if err != nil {
		return err
	}
	return cli.Status(code)
}

func writeVerification(w io.Writer, g *globals, v *secretsgen.Verification) error {
	var b strings.Builder
	var commands []string
	if len(v.Wrong) > 0 {
		table := ui.Table{Header: []string{"HOST", "SECRET", "PART", "WRONG"}}
		for _, p := range v.Wrong {
			table.Rows = append(table.Rows, []ui.Cell{{Text: p.Host}, {Text: p.ID.String()}, {Text: p.Part}, {Text: firstLine(text.Clean(p.Reason))}})
			if p.Hint != "" {
				commands = append(commands, g.spell(p.Hint))
			}
		}
		b.WriteString(table.String())
	}
	writeHostProblems(&b, g, v.Unreachable)
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%d parts are right, %d wrong", v.Verified, len(v.Wrong))
	if n := len(v.Unreachable); n > 0 {
		fmt.Fprintf(&b, "; %d hosts could not be asked", n)
	}
	b.WriteString("\n")
	writeToDo(&b, commands)
	_, err := io.WriteString(w, b.String())
	return err
}
