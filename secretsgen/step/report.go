package step

import (
	"errors"
	"strings"
)

// job is what Run sends to the child, as one line of JSON on its standard input. It holds plaintext, in memory alone. What follows on the
// same pipe is nothing, for as long as the parent lives.
type job struct {
	Request Request
	// Inputs are the opened dependencies, by alias and part.
	Inputs  map[string]map[string][]byte
	User    *User
	Caller  User
	Project string
	Path    string
	// Bubblewrap is the sandbox's program.
	Bubblewrap string
	// Mode is how the child was started.
	Mode mode
}

// mode is what keeps a run apart from the machine.
type mode int

const (
	// modeRoot: new mount and pid namespaces, made by root.
	modeRoot mode = iota
	// modeUser: the same in a new user namespace, where the child is root.
	modeUser
	// modeFolder: none; a folder in a memory file system that others share.
	modeFolder
)

// report is the child's answer.
type report struct {
	// Setup is what kept the child from making its surroundings; nothing was run then.
	Setup string
	// Result is nil where there is none.
	Result *Result
	// Failure says why.
	Failure *failure
	// Output is what the generator printed, fit to be shown.
	Output string
	// Warnings are for the operator.
	Warnings []string
}

// failure is an error that crosses the pipe.
type failure struct {
	Text, Hint string
	// Sentinel names the error that errors.Is finds in it.
	Sentinel string
}

// sentinels are the errors that keep their identity.
func sentinels() map[string]error {
	return map[string]error{"sandbox": ErrSandbox, "timeout": ErrTimeout}
}

func newFailure(err error, r *redactor) *failure {
	f := &failure{Text: r.Text([]byte(err.Error()), false)}
	for name, sentinel := range sentinels() {
		if errors.Is(err, sentinel) {
			f.Sentinel = name
		}
	}
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		f.Hint = hinted.Hint()
	}
	return f
}

// passed is an error as it arrived.
type passed struct {
	text     string
	sentinel error
}

func (p *passed) Error() string { return p.text }
func (p *passed) Unwrap() error { return p.sentinel }

func (f *failure) err() error {
	return &passed{text: f.Text, sentinel: sentinels()[f.Sentinel]}
}

// lines cuts output for a reporter.
func lines(output string) []string {
	if output = strings.TrimRight(output, "\n"); output == "" {
		return nil
	}
	return strings.Split(output, "\n")
}
