// Package ui shows a run to a person or to a program: a live status area, plain lines, or JSON lines, and
// a table at the end.
//
// Results go to standard output, everything else to standard error, prompts to the terminal itself. What comes from
// hosts and builds is stripped of escape codes before it is shown, whoever stripped it before.
package ui

import (
	"io"
	"strings"
	"sync"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
)

// Display shows a run. It is safe for concurrent use.
type Display interface {
	// Emit shows one event; it satisfies the Reporter of every engine.
	Emit(plan.Event)
	// Begin says what the run is about.
	Begin(Run)
	// Finish shows the result of the run.
	Finish(*deploy.Report) error
	// Fail shows an error that ended the command before there was a report, where the caller's own message is not enough.
	Fail(error)
	// Log prints a line of the program's own log, without tearing what is drawn.
	Log(line string)
	// Suspend clears the way for a prompt until resume is called.
	Suspend() (resume func())
	// Close ends drawing; what was shown stays.
	Close()
}

// Run is what a run is about.
type Run struct {
	Action deploy.Action
	Fleet  string
	// Source is the flake or the plan, as a person would call it.
	Source string
	Hosts  []string
	// Attach is the command that attaches to a host's activation, without the host and the transaction.
	Attach string
}

// New picks the display that fits: JSON lines where asked for, a live area on a terminal, plain lines otherwise.
func New(env *cli.Env, json bool) Display {
	switch {
	case json:
		return newJSON(env.Stdout, env.Stderr)
	case env.LiveStatus:
		return newLive(env)
	}
	return newPlain(env.Stdout, env.Stderr, style{})
}

// style adds colours where the terminal has them.
type style struct{ on bool }

func (s style) paint(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// The colours, as parameters of the SGR control function (ECMA-48 8.3.117).
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
	bold   = "1"
)

// colorOf is the colour of an outcome.
func colorOf(o deploy.Outcome) string {
	switch {
	case o == deploy.OutcomeUnchanged:
		return dim
	case o.Success():
		return green
	case o == deploy.OutcomeCancelled, o == deploy.OutcomeDeclined, o == deploy.OutcomeInterrupted, o == deploy.OutcomeDetached, o == deploy.OutcomeStopped:
		return yellow
	}
	return red
}

// ForResult is the display of commands that print a result of their own: a live area on a terminal, else warnings alone. Close it
// before the result is printed.
func ForResult(env *cli.Env) Display {
	if env.LiveStatus {
		return newLive(env)
	}
	return &quiet{err: &sink{w: env.Stderr}}
}

// quiet shows warnings and the log.
type quiet struct {
	mu  sync.Mutex
	err *sink
}

func (q *quiet) Emit(e plan.Event) {
	if e.Kind != plan.EventWarning {
		return
	}
	for _, line := range eventLines(e, style{}) {
		q.Log(line)
	}
}

// Log prints the line as it is.
func (q *quiet) Log(line string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err.print(line + "\n")
}

func (*quiet) Begin(Run)                   {}
func (*quiet) Finish(*deploy.Report) error { return nil }
func (*quiet) Fail(error)                  {}
func (*quiet) Suspend() func()             { return func() {} }
func (*quiet) Close()                      {}

// sink writes until the first error, which it keeps.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) print(text string) {
	if s.err == nil {
		_, s.err = io.WriteString(s.w, text)
	}
}

// LogWriter makes a display a writer for whole lines, which is what loggers write.
type LogWriter struct{ Display Display }

// Write never fails.
func (w LogWriter) Write(line []byte) (int, error) {
	w.Display.Log(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}
