package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"fleet/push/deploy"
)

// helpWidth is the width that help texts are wrapped at.
const helpWidth = 96

// writeHelp prints the help of the last command of path.
func writeHelp(w io.Writer, path []*Command, flags *pflag.FlagSet) error {
	cmd := path[len(path)-1]
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n  %s\n", cmd.Summary, synopsis(path, flags))
	if cmd.Help != "" {
		fmt.Fprintf(&b, "\n%s\n", wrap(cmd.Help, helpWidth))
	}
	writeSubs(&b, cmd)
	if flags.HasAvailableFlags() {
		fmt.Fprintf(&b, "\nFlags:\n%s", flags.FlagUsagesWrapped(helpWidth))
	}
	if len(path) == 1 {
		fmt.Fprintf(&b, "\nExit codes:\n")
		for _, code := range deploy.ExitCodes() {
			fmt.Fprintf(&b, "  %3d  %s\n", code, code.Summary())
		}
		fmt.Fprintf(&b, "\nRun %q for the flags of one command.\n", path[0].Name+" help COMMAND")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeSubs(b *strings.Builder, cmd *Command) {
	if len(visibleNames(cmd.Sub)) == 0 {
		return
	}
	b.WriteString("\nCommands:\n")
	for _, sub := range cmd.Sub {
		if !sub.Hidden {
			fmt.Fprintf(b, "  %-10s %s\n", sub.Name, sub.Summary)
		}
	}
}

func synopsis(path []*Command, flags *pflag.FlagSet) string {
	cmd := path[len(path)-1]
	line := names(path)
	if flags.HasAvailableFlags() {
		line += " [FLAGS]"
	}
	if len(cmd.Sub) > 0 {
		line += " COMMAND"
	}
	if cmd.Args != "" {
		line += " " + cmd.Args
	}
	return line
}

// wrap fills paragraphs to width; indented lines and lists are kept as they are.
func wrap(text string, width int) string {
	var out []string
	for _, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if strings.HasPrefix(paragraph, " ") || strings.HasPrefix(paragraph, "- ") || strings.HasPrefix(paragraph, "* ") {
			out = append(out, paragraph)
			continue
		}
		out = append(out, fill(strings.Fields(paragraph), width))
	}
	return strings.Join(out, "\n\n")
}

func fill(words []string, width int) string {
	var b strings.Builder
	column := 0
	for i, word := range words {
		switch {
		case i == 0:
		case column+1+len(word) > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
