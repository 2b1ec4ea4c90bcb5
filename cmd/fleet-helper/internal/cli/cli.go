// Package cli runs a tree of commands with POSIX flags.
//
// A command is data: a name, texts, flags and what to run. The package parses arguments, prints help,
// and turns an error into one message, the hints that belong to it, and an exit code. It keeps no state, so that
// two runs in one process do not see each other. It never ends the process: only main does.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// RunFunc does a command's work. args are what is left after the flags.
type RunFunc func(ctx context.Context, env *Env, args []string) error

// Command is a node of the tree: a group with Sub, or a leaf with New.
type Command struct {
	// Name is the word that a person types.
	Name string
	// Args is the synopsis of the positional arguments, such as "[ACTION]"; empty where there are none.
	Args string
	// Summary is one line for lists of commands.
	Summary string
	// Help is the full text; Markdown without headings.
	Help string
	// Hidden keeps the command out of lists and of the reference.
	Hidden bool
	// Sub are the commands of a group.
	Sub []*Command
	// Flags binds the flags of a group, which stand before the name of its command.
	Flags func(*pflag.FlagSet)
	// New binds a leaf's flags to fresh options and returns what runs with them.
	New func(*pflag.FlagSet) RunFunc
}

// Env is the world that a command sees.
type Env struct {
	// Args are the arguments without the program's name.
	Args []string
	// Stdin, Stdout and Stderr are the standard streams: results go to Stdout, all else to Stderr.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads an environment variable.
	Getenv func(string) string
	// Executable is the path of this program, for the children that it starts from itself.
	Executable string
	// Version is the program's version.
	Version string
	// Interactive says whether a person is there to answer: standard input and error are terminals.
	Interactive bool
	// LiveStatus says whether Stderr is a terminal that can be redrawn.
	LiveStatus bool
	// Color says whether that terminal may get colours.
	Color bool
	// Size returns its width and height in cells; 0, 0 where there is none.
	Size func() (width, height int)
	// StdinTerminal says whether Stdin is a terminal.
	StdinTerminal bool
	// StdoutTerminal says whether Stdout is a terminal too, which has the same width.
	StdoutTerminal bool
	// OpenTTY opens the controlling terminal for prompts.
	OpenTTY func() (TTY, error)
}

// TTY is the controlling terminal.
type TTY interface {
	io.ReadWriteCloser
	// ReadPassword shows prompt, once nothing that is typed is echoed any more, and reads a line. The terminal is restored when ctx ends too.
	ReadPassword(ctx context.Context, prompt string) ([]byte, error)
	// ReadLine reads a line with echo; closing the terminal is what ends it when ctx does.
	ReadLine(ctx context.Context) (string, error)
}

// Main runs the command that env.Args name below root, prints its error, and returns the exit code.
func Main(ctx context.Context, env *Env, root *Command) int {
	err := Run(ctx, env, root)
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return ExitOK
	case ctx.Err() != nil && !errors.As(err, &coded):
		err = context.Canceled // whatever broke, broke for that
	}
	PrintError(env.Stderr, root.Name, err)
	return ExitCode(err)
}

// Run finds and runs a command.
func Run(ctx context.Context, env *Env, root *Command) error {
	return dispatch(ctx, env, []*Command{root}, env.Args)
}

func dispatch(ctx context.Context, env *Env, path []*Command, args []string) error {
	cmd := path[len(path)-1]
	flags := newFlagSet(path)
	var run RunFunc
	if cmd.New != nil {
		run = cmd.New(flags)
	}
	if cmd.Flags != nil {
		cmd.Flags(flags)
	}
	flags.SetInterspersed(run != nil)
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return writeHelp(env.Stdout, path, flags)
	case err != nil:
		return flagError(path, flags, err)
	}
	if run != nil {
		if cmd.Args == "" && flags.NArg() > 0 {
			return &UsageError{Path: names(path), Err: fmt.Errorf("unexpected argument %q", flags.Arg(0))}
		}
		return withPath(run(ctx, env, flags.Args()), path)
	}
	return dispatchSub(ctx, env, path, flags)
}

func dispatchSub(ctx context.Context, env *Env, path []*Command, flags *pflag.FlagSet) error {
	cmd := path[len(path)-1]
	if flags.NArg() == 0 {
		if err := writeHelp(env.Stderr, path, flags); err != nil {
			return err
		}
		return &UsageError{Path: names(path), Err: errors.New("a command is missing")}
	}
	name := flags.Arg(0)
	if name == "help" && len(path) == 1 {
		return helpFor(env, path, flags.Args()[1:])
	}
	for _, sub := range cmd.Sub {
		if sub.Name == name {
			return dispatch(ctx, env, append(path, sub), flags.Args()[1:])
		}
	}
	return &UsageError{Path: names(path), Err: fmt.Errorf("unknown command %q", name), Remedy: DidYouMean(name, visibleNames(cmd.Sub), "")}
}

// helpFor prints the help of the command that words name.
func helpFor(env *Env, path []*Command, words []string) error {
	for _, word := range words {
		cmd := path[len(path)-1]
		var next *Command
		for _, sub := range cmd.Sub {
			if sub.Name == word {
				next = sub
			}
		}
		if next == nil {
			return &UsageError{Path: names(path), Err: fmt.Errorf("unknown command %q", word), Remedy: DidYouMean(word, visibleNames(cmd.Sub), "")}
		}
		path = append(path, next)
	}
	return writeHelp(env.Stdout, path, boundFlags(path))
}

func newFlagSet(path []*Command) *pflag.FlagSet {
	flags := pflag.NewFlagSet(names(path), pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	return flags
}

// boundFlags returns the flags of the last command of path, for texts about them.
func boundFlags(path []*Command) *pflag.FlagSet {
	cmd := path[len(path)-1]
	flags := newFlagSet(path)
	if cmd.New != nil {
		cmd.New(flags)
	}
	if cmd.Flags != nil {
		cmd.Flags(flags)
	}
	return flags
}

func names(path []*Command) string {
	words := make([]string, len(path))
	for i, cmd := range path {
		words[i] = cmd.Name
	}
	return strings.Join(words, " ")
}

func visibleNames(cmds []*Command) []string {
	var list []string
	for _, cmd := range cmds {
		if !cmd.Hidden {
			list = append(list, cmd.Name)
		}
	}
	return list
}

// Walk calls visit for every command below root, hidden ones too, parents first.
func Walk(root *Command, visit func(path []*Command, flags *pflag.FlagSet)) {
	walk([]*Command{root}, visit)
}

func walk(path []*Command, visit func([]*Command, *pflag.FlagSet)) {
	visit(path, boundFlags(path))
	for _, sub := range path[len(path)-1].Sub {
		next := append(append([]*Command(nil), path...), sub)
		walk(next, visit)
	}
}
