package main

import (
	"bytes"
	"context"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

// editOptions are the flags of edit.
type editOptions struct {
	oneSecretOptions
	part string
}

func newSecretsEdit(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "edit",
		Args:    "NAME",
		Summary: "Edit a value in $VISUAL or $EDITOR, in memory that nothing is left of.",
		Help: `
An owner opens the value; it is edited in a file system in memory that only the editor and what it starts can see, and that is gone with it. All else is
read-only for the editor, so that it leaves no backup, undo or history file. The variable may have arguments, separated by spaces ("vim -n"). The editor has
to run by itself in the terminal: one that hands the file to a server elsewhere (emacsclient, code --wait) does not find it.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &editOptions{oneSecretOptions: oneSecretOptions{secretsOptions: secretsOptions{global: g}}}
			o.addFlags(flags)
			flags.StringVar(&o.part, "part", "", "edit the part `NAME`; by default secret, or the only one")
			return o.edit
		},
	}
}

func (o *editOptions) edit(ctx context.Context, env *cli.Env, args []string) error {
	if err := oneName("edit", args); err != nil {
		return err
	}
	editor := editorOf(env)
	return o.changes(ctx, env, func(ctx context.Context, v *vault) (*secretsgen.Report, error) {
		status, err := v.one(ctx, args[0], o.host)
		if err != nil {
			return nil, err
		}
		part, err := v.partToEdit(ctx, status, o.part)
		if err != nil {
			return nil, err
		}
		return v.engine.Edit(ctx, status.ID, part, func(ctx context.Context, old secret.Plain) (secret.Plain, error) {
			resume := v.op.display.Suspend()
			defer resume()
			value, err := editPrivately(ctx, env, editor, fileName(status.ID.Name, part), old.Bytes())
			if err != nil {
				return secret.Plain{}, err
			}
			return checkValue(withoutEditorNewline(old.Bytes(), value))
		})
	})
}

// partToEdit is the part that is named, or that edit means without a name.
func (v *vault) partToEdit(ctx context.Context, status secretsgen.SecretStatus, name string) (string, error) {
	if status.Gen != "" {
		return partOf(status, name)
	}
	declared, err := v.declaredParts(ctx, status.ID)
	if err != nil {
		return "", err
	}
	status.Parts = declared
	return partOf(status, name)
}

// editorOf is the command line of the editor, as words.
func editorOf(env *cli.Env) []string {
	for _, variable := range []string{"VISUAL", "EDITOR"} {
		if words := strings.Fields(env.Getenv(variable)); len(words) > 0 {
			return words
		}
	}
	return []string{"vi"}
}

// withoutEditorNewline drops the newline that an editor puts at the end of a file whose last line had none.
func withoutEditorNewline(old, edited []byte) []byte {
	if len(old) == 0 {
		return withoutShellNewline(edited)
	}
	if old[len(old)-1] != '\n' {
		return bytes.TrimSuffix(edited, []byte("\n"))
	}
	return edited
}

// fileName is what the editor calls the file: the names say what is edited.
func fileName(name, part string) string {
	const most = 60
	return name[:min(most, len(name))] + "-" + part[:min(most, len(part))]
}
