// Package run is the only place of the project that starts processes.
//
// Everything that drives a foreign program goes through [Run] or [Start]: argument
// vectors only, never shell text; a cancelled context sends SIGTERM to the process
// group and, after [Cmd.Grace], SIGKILL, so that nothing is left behind; the end of
// stderr is kept, so that an error can show what the program said.
//
// When a process has ended, whatever it left in its process group is killed as well. A program that is meant to
// outlive its caller has to leave the group (setsid), as ssh does with a master and systemd-run with a unit.
package run

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Cmd describes one process. The zero values of all fields but Argv are usable.
type Cmd struct {
	// Argv is the program, looked up in PATH, and its arguments.
	Argv []string
	// Dir is the working directory; empty means ours.
	Dir string
	// Env is appended to our environment, KEY=value; a later entry wins.
	Env []string
	// ClearEnv makes Env the whole environment.
	ClearEnv bool
	// Stdin is /dev/null where nil. A reader that blocks is not waited for once the process has ended.
	Stdin io.Reader
	// Stdout and Stderr are discarded where nil; the last bytes of stderr are kept
	// for [ExitError] in any case. A writer that fails ends the process, and its error is returned.
	// Where both are the same writer, only one goroutine at a time writes to it.
	Stdout, Stderr io.Writer
	// PipeStdin, PipeStdout and PipeStderr, for [Start], make the stream a field of [Process]; the
	// writer or reader of the same name must then be nil.
	PipeStdin, PipeStdout, PipeStderr bool
	// MaxOutput bounds what [Output] keeps, in bytes; zero means 64 MiB.
	MaxOutput int64
	// ExtraFiles become descriptors 3, 4, … of the process.
	ExtraFiles []*os.File
	// Grace is the time between SIGTERM and SIGKILL after a cancellation; zero means 5 s.
	Grace time.Duration
	// Limits are resource limits of the process; nil leaves ours. They hold from the first
	// instruction of the program on, on Linux; elsewhere they are an error that wraps
	// [errors.ErrUnsupported], and a child that is our own binary calls [LimitSelf] instead.
	// A program that is setuid loses that right with limits.
	Limits *Limits
	// NewSession starts the process in its own session (setsid), so that it has no terminal: it cannot prompt
	// on /dev/tty, and signals of the terminal do not reach it. Without it the process has its own
	// process group in our session: Ctrl-C does not reach it either, but reading the terminal stops it.
	NewSession bool
	// Terminal, unless nil, is the controlling terminal, which is lent to the process: its process group is the foreground one while it runs, and ours
	// again afterwards. It is for programs that a person uses, such as editors, which cannot be suspended then. Not with NewSession.
	Terminal *os.File
	// Isolation separates the process from ours; nil leaves it with us. Other systems than Linux have none of it: there it is an error that
	// wraps [errors.ErrUnsupported].
	Isolation *Isolation
}

// Isolation says which of our surroundings a process does not share. The zero value shares all.
type Isolation struct {
	// NewMounts and NewPIDs give the process a mount and a pid namespace of its own. In the latter it is PID 1: all other processes in
	// there are killed by the kernel when it ends.
	NewMounts, NewPIDs bool
	// Inside gives it a user namespace of its own, in which our user and group have these numbers and no others exist. Nil leaves ours.
	Inside *IDs
	// As runs it as another user; only root can. Nil leaves our user.
	As *IDs
	// DieWithParent has the kernel kill the process when we end, however that happens. A program that is setuid loses it.
	DieWithParent bool
}

// IDs are a user and its groups. Groups are of no meaning for [Isolation].Inside.
type IDs struct {
	UID, GID uint32
	Groups   []uint32
}

// Limits are resource limits of a process. A zero field leaves that limit as it is.
type Limits struct {
	// CPU is the CPU time after which the kernel kills the process.
	// It is rounded up to full seconds.
	CPU time.Duration
	// AddressSpace bounds its virtual memory, in bytes.
	AddressSpace uint64
}

// Runner starts processes; the function [Run] is the real one. Packages that drive programs take
// it as a dependency, so that a caller can bound or observe what is started.
type Runner interface {
	Run(ctx context.Context, cmd Cmd) error
}

// RunnerFunc is a function as a [Runner]; RunnerFunc(Run) starts real processes.
type RunnerFunc func(ctx context.Context, cmd Cmd) error

// Run calls f.
func (f RunnerFunc) Run(ctx context.Context, cmd Cmd) error { return f(ctx, cmd) }

// ExitError says that a process ended with a status other than zero, or by a signal.
type ExitError struct {
	Argv []string
	// Code is the exit status, -1 where a signal ended the process.
	Code int
	// Signal is the signal's name, empty where the process exited by itself.
	Signal string
	// StderrTail is the end of what the process wrote to stderr, at most 16 KiB, free of escape codes.
	StderrTail string
}

func (e *ExitError) Error() string {
	end := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != "" {
		end = "killed by " + e.Signal
	}
	msg := fmt.Sprintf("run %q: %s", e.Argv[0], end)
	if tail := strings.TrimSpace(e.StderrTail); tail != "" {
		msg += ": " + tail
	}
	return msg
}

// NotFoundError says that a program is not installed.
type NotFoundError struct {
	Program string
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("run %q: program not found", e.Program) }

// Hint says how to mend it.
func (e *NotFoundError) Hint() string {
	switch {
	case strings.Contains(e.Program, "/"):
		return fmt.Sprintf("check that %s exists and is executable", e.Program)
	case e.Program == "nix" || strings.HasPrefix(e.Program, "nix-"):
		return "install Nix (on Debian: apt-get install nix-bin), or add the folder that holds " + e.Program + " to PATH"
	case e.Program == "ssh":
		return "install the OpenSSH client (on Debian: apt-get install openssh-client)"
	}
	return "install " + e.Program + ", or add the folder that holds it to PATH"
}

// Is makes errors.Is(err, exec.ErrNotFound) true.
func (e *NotFoundError) Is(target error) bool { return target == exec.ErrNotFound }

// OutputLimitError says that a process wrote more than [Cmd.MaxOutput] to its standard output. The process was ended.
type OutputLimitError struct {
	Limit int64
}

func (e *OutputLimitError) Error() string {
	return fmt.Sprintf("the output is longer than %d bytes", e.Limit)
}
