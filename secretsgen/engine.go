package secretsgen

import (
	"context"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
	"fleet/secretsgen/step"
	"fleet/secretsgen/trust"
)

// Engine carries out what is decided for the secrets of one fleet. Its fields are its configuration; they are set before it is used. Operations
// may not overlap: each that changes something holds the lock of the state from its beginning to its end.
//
// Where an operation is cancelled, what was finished is in the state and the rest is as it was.
type Engine struct {
	State *state.Store
	Plan  *plan.Plan
	// Specs evaluates what hosts declare in their own modules: by host, the specs or why there are none. The error is about all of them.
	Specs func(ctx context.Context, hosts []string) (map[string]plan.Specs, map[string]error, error)
	// Pins returns all keys that are pinned for a host, in the plan or in the state, as "type base64"; none for a host that is keyless.
	Pins func(host string) []string
	// Trust decides whose key a pinned key is; a [*trust.Policy].
	Trust Trust
	// Hosts may be nil: no host can be reached, and what needs one is said to need it.
	Hosts Hosts
	// Programs may be nil where no generator is run.
	Programs Programs
	// Local runs a generator on this machine, as step.Run does; nil where it cannot.
	Local func(ctx context.Context, request step.Request) (step.Result, error)
	// Person is nil where nobody can be asked.
	Person Person
	// Variable takes a variable out of our environment, so that no child inherits it, and returns its value; false where it is not set. Nil
	// means that none is.
	Variable func(name string) (secret.Plain, bool)
	Reporter Reporter
	Now      func() time.Time
	Limits   Limits

	// variables were taken out of our environment, by name.
	variables map[string]secret.Plain
}

// Limits bound what is done at the same time. Zero values mean the defaults.
type Limits struct {
	// Local bounds the generators that run on this machine; default 4.
	Local int
	// Hosts bounds the requests to hosts, all hosts together; default 16.
	Hosts int
}

func (l Limits) withDefaults() Limits {
	if l.Local <= 0 {
		l.Local = 4
	}
	if l.Hosts <= 0 {
		l.Hosts = 16
	}
	return l
}

// Reporter receives what happens. It is called from many goroutines and must not block for long. Nothing that it is given holds a secret.
type Reporter interface {
	Emit(plan.Event)
}

// Trust decides whose key a key is, see [trust.Policy]. Both return nil, an error that wraps [trust.ErrUnaccepted], or what kept them
// from finding out.
type Trust interface {
	// Judge may ask a person and remembers what was accepted.
	Judge(ctx context.Context, candidate trust.Candidate) error
	// Check asks nobody and remembers nothing.
	Check(ctx context.Context, candidate trust.Candidate) error
}

// Programs builds the programs of generators.
type Programs interface {
	// Build builds the programs of these secrets' generators for a system, such as "x86_64-linux", and returns their store paths, by secret, or why there
	// is none: an error that names the secret. An empty system is this machine's own. The paths are valid on this machine and stay so until the run has ended.
	// The error is about all of them.
	Build(ctx context.Context, system string, ids []secret.ID) (map[secret.ID]string, map[secret.ID]error, error)
}

// Person is asked for values. It is asked one thing at a time.
type Person interface {
	// Ask asks for the value of a secret, of the kinds "terminal" and "file" of plan.Ask. The prompt names the secret.
	Ask(ctx context.Context, question Question) (secret.Plain, error)
}

// Question is what a person is asked.
type Question struct {
	ID   secret.ID
	Part string
	Ask  plan.Ask
}

// Selection names the secrets that an operation is about. The zero value selects all.
type Selection struct {
	// Hosts selects the secrets that one of these hosts owns, by declaration or in the state; nil selects those of all hosts.
	Hosts []string
	// Secrets selects these; nil does not restrict. One that is neither declared nor in the state is an error.
	Secrets []secret.ID
}
