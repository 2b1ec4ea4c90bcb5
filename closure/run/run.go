// Package run is the only place of the project that starts processes.
//
// Everything that drives a foreign program goes through [Run] or [Start]: argument
// vectors only, never shell text; a cancelled context sends SIGTERM to the process
// group and, after [Cmd.Grace], SIGKILL, so that nothing is left behind; the end of
// stderr is kept, so that an error can show what the program said.
package run

import (
	"context"
	"fmt"
	"io"
	"os"
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
	// Stdin is /dev/null where nil.
	Stdin io.Reader
	// Stdout and Stderr are discarded where nil; the last bytes of stderr are kept
	// for [ExitError] in any case.
	Stdout, Stderr io.Writer
	// ExtraFiles become descriptors 3, 4, … of the process.
	ExtraFiles []*os.File
	// Grace is the time between SIGTERM and SIGKILL after a cancellation; zero means 5 s.
	Grace time.Duration
	// Limits are resource limits of the process; nil leaves ours.
	Limits *Limits
	// NewSession starts the process in its own session (setsid), so that signals of
	// our terminal do not reach it.
	NewSession bool
}

// Limits are resource limits set on a child before it runs.
type Limits struct {
	// CPU is the CPU time after which the kernel kills the process.
	CPU time.Duration
	// AddressSpace bounds its virtual memory, in bytes.
	AddressSpace uint64
}

// Runner starts processes; the function [Run] is the real one. Packages that drive programs take
// it as a dependency, so that a caller can bound or observe what is started.
type Runner interface {
	Run(ctx context.Context, cmd Cmd) error
}

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
