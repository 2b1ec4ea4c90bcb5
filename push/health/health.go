// Package health looks whether something works: an address takes connections, a URL is answered, a program succeeds, a unit runs. Both sides use
// it: a host judges itself with it after an activation, and the operator, or another host, looks from outside.
//
// What is looked at may be broken or hostile, so every look is bounded, and what it has answered is cleaned before anybody reads it. The package
// never prints.
package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fleet/closure/run"
	"fleet/push/proto"
)

const (
	defaultTimeout  = 30 * time.Second
	defaultInterval = 2 * time.Second
	// maxTry bounds one look over the network, so that an address that swallows connections is asked again in time.
	maxTry = 10 * time.Second
	// leastTry is what the last look gets, however little time is left.
	leastTry = time.Second
	// maxText bounds what an error says, in bytes.
	maxText = 400
)

// Looker looks at what needs more than a network. A nil function means that it cannot be looked at from here.
type Looker struct {
	// Command runs a program; nil means that it has succeeded. It has to end soon after ctx has.
	Command func(ctx context.Context, name string, argv []string) error
	// Unit says why a systemd unit is not active.
	Unit func(ctx context.Context, unit string) error
}

// UnknownError says that a look could not be made at all, which says nothing about what was to be looked at.
type UnknownError struct{ Err error }

func (e *UnknownError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnknownError) Unwrap() error { return e.Err }

// Error says that a check has not passed.
type Error struct {
	// Name is the check's, What is what it looks at, for people.
	Name, What string
	// Patience is how long it was tried; 0 for once.
	Patience time.Duration
	Err      error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("health check %q (%s): %s", e.Name, e.What, Clean(e.Err.Error()))
	if e.Patience > 0 {
		text += fmt.Sprintf("; it was tried for %s", e.Patience.Round(time.Second/10))
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Timeout is how long a check may take to pass.
func Timeout(c proto.HealthCheck) time.Duration {
	if c.TimeoutSeconds <= 0 {
		return defaultTimeout
	}
	return time.Duration(c.TimeoutSeconds) * time.Second
}

// Interval is the pause between two looks.
func Interval(c proto.HealthCheck) time.Duration {
	if c.IntervalSeconds <= 0 {
		return defaultInterval
	}
	return time.Duration(c.IntervalSeconds) * time.Second
}

// From is who looks: [proto.CheckHost], [proto.CheckOperator], or a host's name.
func From(c proto.HealthCheck) string {
	if c.From == "" {
		return proto.CheckHost
	}
	return c.From
}

// Select returns the checks that from makes.
func Select(checks map[string]proto.HealthCheck, from string) map[string]proto.HealthCheck {
	chosen := make(map[string]proto.HealthCheck)
	for name, c := range checks {
		if From(c) == from {
			chosen[name] = c
		}
	}
	return chosen
}

// What says what a check looks at, in a few words.
func What(c proto.HealthCheck) string {
	switch {
	case len(c.Command) > 0:
		return "command " + Clean(strings.Join(c.Command, " "))
	case c.TCP != "":
		return "tcp " + Clean(c.TCP)
	case c.HTTP != nil:
		return "http " + Clean(shown(c.HTTP.URL))
	case c.Unit != "":
		return "unit " + Clean(c.Unit)
	}
	return "nothing"
}

// Try looks once. The error is an [*Error].
func Try(ctx context.Context, name string, c proto.HealthCheck, l Looker) error {
	limit := Timeout(c)
	if c.Command == nil {
		limit = min(limit, maxTry)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not answer within %s", limit))
	defer cancel()
	if err := look(ctx, name, c, l); err != nil {
		return &Error{Name: name, What: What(c), Err: err}
	}
	return nil
}

func look(ctx context.Context, name string, c proto.HealthCheck, l Looker) (err error) {
	switch {
	case len(c.Command) > 0 && l.Command != nil:
		err = l.Command(ctx, name, c.Command)
	case c.TCP != "":
		err = TCP(ctx, c.TCP)
	case c.HTTP != nil:
		err = HTTP(ctx, *c.HTTP)
	case c.Unit != "" && l.Unit != nil:
		err = l.Unit(ctx, c.Unit)
	default:
		err = errors.New("nobody can look at that from here")
	}
	// The clock says more than what it has led to.
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// Await looks until the check passes, for as long as the check may take. The error, an [*Error], is that of the last look.
func Await(ctx context.Context, name string, c proto.HealthCheck, l Looker) error {
	begun, patience := time.Now(), Timeout(c)
	for {
		left := max(patience-time.Since(begun), leastTry)
		err := tryWithin(ctx, left, name, c, l)
		if err == nil {
			return nil
		}
		if passed := time.Since(begun) + Interval(c); passed >= patience {
			failure, _ := errors.AsType[*Error](err)
			failure.Patience = time.Since(begun)
			return failure
		}
		select {
		case <-time.After(Interval(c)):
		case <-ctx.Done():
			return err
		}
	}
}

func tryWithin(ctx context.Context, left time.Duration, name string, c proto.HealthCheck, l Looker) error {
	ctx, cancel := context.WithTimeoutCause(ctx, left, fmt.Errorf("it did not answer within %s", left.Round(time.Second/10)))
	defer cancel()
	return Try(ctx, name, c, l)
}

// Program is a [Looker]'s Command that runs programs to their end with a Runner, in the surroundings of base.
func Program(runner run.Runner, base run.Cmd) func(context.Context, string, []string) error {
	return func(ctx context.Context, _ string, argv []string) error {
		var out tail
		cmd := base
		cmd.Argv, cmd.Stdout, cmd.Stderr, cmd.Grace = argv, &out, &out, time.Second
		err := runner.Run(ctx, cmd)
		if err == nil {
			return nil
		}
		exit, ok := errors.AsType[*run.ExitError](err)
		if !ok {
			return err
		}
		return Ended(exit.Code, exit.Signal, string(out.text))
	}
}

// Ended says how a program has ended that did not succeed, and what it has said last.
func Ended(code int, signal, output string) error {
	text := fmt.Sprintf("it ended with exit status %d", code)
	if signal != "" {
		text = "it was killed by " + signal
	}
	if last := lastLine(output); last != "" {
		text += ": " + last
	}
	return errors.New(text)
}

// lastLine is the last line that says something.
func lastLine(text string) string {
	for _, line := range slices.Backward(strings.Split(run.StripEscapes(text), "\n")) {
		if line = strings.TrimSpace(line); line != "" {
			return Clean(line)
		}
	}
	return ""
}

// tail keeps the end of what is written.
type tail struct{ text []byte }

const maxTail = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p[max(0, len(p)-maxTail):]...)
	if extra := len(t.text) - maxTail; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(p), nil
}

// Clean makes foreign text into one bounded line without escape codes.
func Clean(text string) string {
	text = strings.Join(strings.Fields(run.StripEscapes(text)), " ")
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}
