package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"fleet/push/deploy"
)

// Reference renders the visible part of the tree as Markdown: docs/reference/cli.md.
func Reference(root *Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Command line reference\n\nMade from the command tree by `go test ./cmd/fleet-helper -run TestReference -update`; do not edit.\n")
	fmt.Fprintf(&b, "\nThe exit codes are those of [errors.md](../errors.md).\n")
	Walk(root, func(path []*Command, flags *pflag.FlagSet) {
		for _, cmd := range path {
			if cmd.Hidden {
				return
			}
		}
		referenceOne(&b, path, flags)
	})
	return b.String()
}

func referenceOne(b *strings.Builder, path []*Command, flags *pflag.FlagSet) {
	cmd := path[len(path)-1]
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n```\n%s\n```\n", names(path), cmd.Summary, synopsis(path, flags))
	if cmd.Help != "" {
		fmt.Fprintf(b, "\n%s\n", wrap(cmd.Help, helpWidth))
	}
	if !flags.HasAvailableFlags() {
		return
	}
	b.WriteString("\n| flag | default | meaning |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "`--" + f.Name
		kind, usage := pflag.UnquoteUsage(f)
		if kind != "" {
			name += " " + kind
		}
		name += "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		def := f.DefValue
		if def == "[]" || def == "false" || def == "0" {
			def = ""
		}
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, def, strings.ReplaceAll(usage, "|", "\\|"))
	})
}

// ErrorsTable renders the exit codes as a Markdown table, for docs/errors.md.
func ErrorsTable() string {
	var b strings.Builder
	b.WriteString("| code | meaning | what to do |\n|---|---|---|\n")
	for _, code := range deploy.ExitCodes() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", code, code.Summary(), code.Remedy())
	}
	return b.String()
}
