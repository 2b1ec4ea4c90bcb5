package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/secretsgen/install"
)

// Secrets makes what hosts need before they can be evaluated; [EngineSecrets] is the real one.
type Secrets interface {
	// Ensure makes what the hosts miss, and returns a snapshot that has it. Where some of it could not be made, the snapshot has the rest, and
	// the error is an [*EnsureError]. Any other error is about all hosts. It is called a few times in a run, one after the other.
	Ensure(ctx context.Context, needs []Need) (evaluator.Snapshot, error)
	// Uncommitted names the files that were written so far.
	Uncommitted() Uncommitted
}

// Need is what one host misses.
type Need struct {
	Host string
	// Specs are what it declares; nil where it declares no secrets.
	Specs *plan.Specs
	// Missing are the ids of secrets that it owns, alone or with others.
	Missing []string
	// Public are public parts of other hosts' secrets that its evaluation reads.
	Public []evaluator.PublicRef
}

// empty says whether nothing is missing.
func (n Need) empty() bool { return len(n.Missing) == 0 && len(n.Public) == 0 }

// ids are the secrets that it is about, sorted.
func (n Need) ids() []string {
	ids := slices.Clone(n.Missing)
	for _, ref := range n.Public {
		ids = append(ids, ref.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// EnsureError says what was not made.
type EnsureError struct {
	// Failed are the causes by the secret's id, Hosts by the host that gets no secrets, such as one whose key nobody has accepted.
	Failed, Hosts map[string]error
}

func (e *EnsureError) Error() string {
	return fmt.Sprintf("make missing secrets: %d were not made, %d hosts get none", len(e.Failed), len(e.Hosts))
}

// MissingSecretsError says that a host cannot be evaluated before secrets are made, and why this run did not make them.
type MissingSecretsError struct {
	Host string
	// Need is what it misses.
	Need Need
	// Reason says why nothing was made; empty where Causes do, or where nothing is known.
	Reason string
	// Causes are why secrets could not be made, by id; Err is one for all of this host's.
	Causes map[string]error
	Err    error
}

func (e *MissingSecretsError) Error() string {
	var missing []string
	for _, id := range e.Need.Missing {
		missing = append(missing, id+e.cause(id))
	}
	for _, ref := range e.Need.Public {
		missing = append(missing, fmt.Sprintf("the public part %s%s", ref, e.cause(ref.ID)))
	}
	text := fmt.Sprintf("evaluate host %q: the state does not have for it: %s", e.Host, strings.Join(missing, ", "))
	switch {
	case e.Err != nil:
		text += fmt.Sprintf("; %v", e.Err)
	case e.Reason != "":
		text += "; nothing was made: " + e.Reason
	}
	return text
}

// Unwrap gives the cause for all.
func (e *MissingSecretsError) Unwrap() error { return e.Err }

func (e *MissingSecretsError) cause(id string) string {
	if err := e.Causes[id]; err != nil {
		return fmt.Sprintf(" (%v)", err)
	}
	return ""
}

// Hint is the remedy of the first cause that has one, else the command that makes secrets.
func (e *MissingSecretsError) Hint() string {
	causes := []error{e.Err}
	for _, id := range e.Need.ids() {
		causes = append(causes, e.Causes[id])
	}
	for _, cause := range causes {
		var hinted interface{ Hint() string }
		if errors.As(cause, &hinted) && hinted.Hint() != "" {
			return hinted.Hint()
		}
	}
	return "make them: fleet secrets sync"
}

// PreflightError says that a host could not read the secrets of a system; it was not activated.
type PreflightError struct {
	Host string
	// Failed are the secrets and templates, with reasons.
	Failed []install.Failure
}

func (e *PreflightError) Error() string {
	var parts []string
	for _, f := range e.Failed {
		parts = append(parts, f.What()+": "+f.Reason)
	}
	return fmt.Sprintf("check secrets on %q: it could not install them: %s", e.Host, strings.Join(parts, "; "))
}

// Hint is the command that seals them anew.
func (e *PreflightError) Hint() string {
	return fmt.Sprintf("fleet secrets status --on %[1]s says what is wrong with them; where the host's key has changed: fleet secrets host-key scan, then fleet secrets rekey --on %[1]s", e.Host)
}
