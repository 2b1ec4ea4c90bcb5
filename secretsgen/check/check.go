// Package check proves what can be proved of a fleet's secrets without any private key: that the state has what is declared, for the owners
// that are declared and nobody else, and nothing that must not be in it. It is what `nix flake check` runs, in a sandbox without network, home and git.
//
// It cannot prove that a copy really opens, that all owners have the same value, or that commitments are true: hosts prove that.
package check

import (
	"io/fs"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// Finding is one thing that is wrong, and what mends it.
type Finding struct {
	// ID is zero where the finding is about no single secret.
	ID secret.ID
	// Host is empty where it is about no single host.
	Host   string
	Reason string
	// Mend is the command, or the setting, that mends it.
	Mend string
	// Warning says that nothing is wrong yet.
	Warning bool
}

// Input is what is held against each other.
type Input struct {
	// Plan has the shared secrets, the hosts, and the records whose specs have the hosts' own secrets.
	Plan *plan.Plan
	Tree *state.Tree
	// Pins are the pinned keys in the state as "type base64", by host; those of the plan are in the plan.
	Pins map[string][]string
	// PinErrors are hosts whose pins cannot be read.
	PinErrors map[string]error
	// Files is the fleet's state, fleet-state/<fleet>, for what no file there may hold; nil leaves that out.
	Files fs.FS
	// Now is the time that expiry is judged at. Where it is zero, it is not judged, and a warning says so.
	Now time.Time
}

// Run returns all findings, sorted.
func Run(in Input) []Finding { return nil }
