package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/text"
	"fleet/push/deploy"
)

// ExitOK is the exit code of a command that did all that it was asked for.
const ExitOK = int(deploy.ExitOK)

// UsageError says that a command was called wrongly. Its exit code is 2.
type UsageError struct {
	// Path is the command as typed, such as "fleet deploy".
	Path string
	Err  error
	// Remedy is what to do instead; empty points to the help.
	Remedy string
}

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Hint says where to read on.
func (e *UsageError) Hint() string {
	if e.Remedy != "" {
		return e.Remedy
	}
	var own interface{ Hint() string }
	if errors.As(e.Err, &own) {
		return own.Hint()
	}
	return fmt.Sprintf("run: %s --help", e.Path)
}

// ExitCode is that of a wrong call.
func (e *UsageError) ExitCode() int { return int(deploy.ExitUsage) }

// Usagef makes a [UsageError] for the command that runs.
func Usagef(format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...)}
}

// HintError adds a remedy to an error.
type HintError struct {
	Err    error
	Remedy string
}

func (e *HintError) Error() string { return e.Err.Error() }
func (e *HintError) Unwrap() error { return e.Err }

// Hint is the remedy.
func (e *HintError) Hint() string { return e.Remedy }

// WithHint adds a remedy to err; nil stays nil.
func WithHint(err error, remedy string) error {
	if err == nil {
		return nil
	}
	return &HintError{Err: err, Remedy: remedy}
}

// StatusError ends a command with an exit code when all that there is to say was said already.
type StatusError struct{ Code int }

func (e *StatusError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// ExitCode is the code to end with.
func (e *StatusError) ExitCode() int { return e.Code }

// Status returns nil for 0 and a [StatusError] otherwise.
func Status(code int) error {
	if code == ExitOK {
		return nil
	}
	return &StatusError{Code: code}
}

// ExitCode maps an error to the process's exit code: what the error itself says, 130 for an interruption, else 1.
func ExitCode(err error) int {
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &coded):
		return coded.ExitCode()
	case errors.Is(err, context.Canceled):
		return int(deploy.ExitInterrupted)
	}
	return int(deploy.ExitError)
}

// Hints lists the remedies of err and of all that it wraps, outermost first, each once.
func Hints(err error) []string {
	var hints []string
	seen := map[string]bool{}
	add := func(h string) {
		if h != "" && !seen[h] {
			seen[h] = true
			hints = append(hints, h)
		}
	}
	var visit func(error)
	visit = func(err error) {
		if err == nil {
			return
		}
		if h, ok := err.(interface{ Hint() string }); ok {
			add(h.Hint())
		}
		switch w := err.(type) {
		case interface{ Unwrap() error }:
			visit(w.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range w.Unwrap() {
				visit(e)
			}
		}
	}
	visit(err)
	return hints
}

// PrintError writes err and its hints to w; a [StatusError] and an interruption have nothing to add.
func PrintError(w io.Writer, program string, err error) {
	var status *StatusError
	if errors.As(err, &status) {
		return
	}
	if errors.Is(err, context.Canceled) && ExitCode(err) == int(deploy.ExitInterrupted) {
		fmt.Fprintf(w, "%s: interrupted\n", program)
		return
	}
	fmt.Fprintf(w, "%s: %s\n", program, text.Clean(err.Error()))
	for _, h := range Hints(err) {
		fmt.Fprintf(w, "  hint: %s\n", text.Clean(h))
	}
}

// withPath tells a usage error of a command's own which command it was.
func withPath(err error, path []*Command) error {
	var usage *UsageError
	if errors.As(err, &usage) && usage.Path == "" {
		usage.Path = names(path)
	}
	return err
}

// flagError turns what pflag says into a usage error with a remedy.
func flagError(path []*Command, flags *pflag.FlagSet, err error) error {
	usage := &UsageError{Path: names(path), Err: err}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		usage.Remedy = flagRemedy(path, flags, unknown.GetSpecifiedName())
	}
	return usage
}

// flagRemedy says where an unknown flag belongs, or which one was meant.
func flagRemedy(path []*Command, flags *pflag.FlagSet, name string) string {
	if len(path) > 1 && boundFlags(path[:1]).Lookup(name) != nil {
		return fmt.Sprintf("--%s goes before the command: %s --%s … %s", name, path[0].Name, name, strings.TrimPrefix(names(path), path[0].Name+" "))
	}
	for _, sub := range path[len(path)-1].Sub {
		if below := append(path[:len(path):len(path)], sub); !sub.Hidden && boundFlags(below).Lookup(name) != nil {
			return fmt.Sprintf("--%s goes after the command: %s --%s", name, names(below), name)
		}
	}
	for _, sub := range path[len(path)-1].Sub {
		if sub.Name == name && !sub.Hidden {
			return fmt.Sprintf("it is a command: %s %s", names(path), name)
		}
	}
	var known []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	})
	return DidYouMean(name, known, "--")
}

// DidYouMean returns a remedy that names the nearest of known, or nothing.
func DidYouMean(word string, known []string, prefix string) string {
	best, bestDistance := "", len(word)/2+1
	for _, k := range known {
		if strings.HasPrefix(k, word) && word != "" {
			return fmt.Sprintf("did you mean %s%s?", prefix, k)
		}
		if d := distance(word, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %s%s?", prefix, best)
}

// distance is the number of single-character edits between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
