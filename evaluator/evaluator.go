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
	// Snapshot pins what all later calls of a run look at.
	Snapshot(ctx context.Context) (Snapshot, error)
	// Plan returns the fleet's plan.
	Plan(ctx context.Context, snapshot Snapshot) (*plan.Plan, error)
	// Records evaluates a batch of hosts and calls each with every host's result as soon as it
	// is known, in any order, from several goroutines. A host that does not evaluate is
	// reported through each and does not stop the others; the returned error is for what concerns the whole batch.
	Records(ctx context.Context, snapshot Snapshot, p *plan.Plan, hosts []string, each func(RecordResult)) error
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
	Host   string
	Record plan.Record
	// Err is an [*EvalError] where Nix failed.
	Err error
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
