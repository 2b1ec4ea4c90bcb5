// Package evaluator asks a backend for a fleet's plan and its hosts' records, and builds what they name.
//
// Two backends stand behind [Backend]: nix, which drives nix processes on a flake, and static,
// which reads a plan from JSON or Jsonnet and evaluates nothing.
package evaluator

import (
	"context"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// Backend knows a fleet. It is safe for concurrent use.
type Backend interface {
	// Snapshot pins what later calls look at. A run that has written files itself takes another one, which then has them.
	Snapshot(ctx context.Context) (Snapshot, error)
	// Plan returns the fleet's plan.
	Plan(ctx context.Context, snapshot Snapshot) (*plan.Plan, error)
	// Records evaluates a batch of hosts and calls each with every host's result as soon as it
	// is known, in any order, from several goroutines. A host that does not evaluate is
	// reported through each and does not stop the others; the returned error is for what concerns the whole batch. A host whose specs say
	// that secrets are missing has no system, which is no error, see [RecordResult.MissingSecrets].
	Records(ctx context.Context, snapshot Snapshot, p *plan.Plan, hosts []string, each func(RecordResult)) error
	// Specs is Records for what hosts declare alone: no system is evaluated, so it is cheaper, and nothing that is missing is an
	// error. A static backend has none.
	Specs(ctx context.Context, snapshot Snapshot, p *plan.Plan, hosts []string, each func(RecordResult)) error
	// Generators evaluates how values of secrets are made on machines of a Nix system, empty for the operator's own. The ids are those of
	// secrets whose generator is of kind "script". The maps have the programs of those that evaluate, and why the others do not.
	Generators(ctx context.Context, snapshot Snapshot, p *plan.Plan, system string, ids []string) (map[string]Program, map[string]error, error)
	// BuildPrograms realises programs on this machine, many at once, and protects them from garbage collection. The map says, by id, why
	// some do not build.
	BuildPrograms(ctx context.Context, fleet string, programs map[string]Program) (map[string]error, error)
	// Helper returns the store path of the helper for a target system, built or fetched already.
	Helper(ctx context.Context, snapshot Snapshot, p *plan.Plan, system string) (storepath.Path, error)
	// Build realises a host's toplevel on this machine and roots it as the host's current build.
	// A static backend only checks that it is valid.
	Build(ctx context.Context, request BuildRequest) error
}

// Snapshot is an immutable view of a fleet's source, for one run.
type Snapshot struct {
	// Ref is the flake reference that nix is given, locked to a revision or a store path; empty for static plans.
	Ref string
	// Source is what a person would call it, for messages.
	Source string
}

// RecordResult is a host's record, or why there is none.
type RecordResult struct {
	Host string
	// Record has Specs also where Err is about the system; hosts of a flake that declares no secrets have none.
	Record plan.Record
	// Err is an [*EvalError] where Nix failed, in a [*MissingPublicError] where it failed for a public part of a secret.
	Err error
}

// Program is a generator of a secret's value.
type Program struct {
	DrvPath string `json:"drvPath"`
	// Program is the executable, in an output of the derivation.
	Program string `json:"program"`
}

// BuildRequest asks for a host's toplevel.
type BuildRequest struct {
	Fleet  string
	Host   string
	System plan.System
}

// Reporter receives what happens while nix works. It is called from several goroutines.
type Reporter interface {
	Emit(plan.Event)
}
