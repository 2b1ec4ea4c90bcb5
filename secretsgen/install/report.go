package install

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// Report says what an installer did, and what it could not install.
type Report struct {
	// Host is the manifest's.
	Host string `json:"host,omitempty"`
	// Generation is the number of the generation that is in use; zero where nothing is, and for a preflight.
	Generation uint64 `json:"generation,omitempty"`
	// Total counts the secrets and templates that were to be installed.
	Total int `json:"total,omitempty"`
	// Failed is sorted.
	Failed []Failure `json:"failed"`
}

// Failure is one secret, or one template, that could not be installed.
type Failure struct {
	// ID is the secret's; zero for a template.
	ID secret.ID `json:"id,omitzero"`
	// Template is the template's name; empty for a secret.
	Template string `json:"template,omitempty"`
	Reason   string `json:"reason"`
	// Hint says what mends it.
	Hint string `json:"hint,omitempty"`
	// Kept says that the same value is in place nevertheless, from the generation before.
	Kept bool `json:"kept,omitempty"`
}

// What names the secret or template, for messages.
func (f Failure) What() string {
	if f.Template != "" {
		return "template " + f.Template
	}
	return f.ID.String()
}

// Err is nil where all was installed, and a [*FailedError] otherwise.
func (r Report) Err() error {
	if len(r.Failed) == 0 {
		return nil
	}
	return &FailedError{Report: r}
}

// fail notes a failure.
func (r *Report) fail(f Failure, err error) {
	f.Reason = err.Error()
	f.Hint = hintOf(err)
	r.Failed = append(r.Failed, f)
}

func (r *Report) sort() {
	slices.SortFunc(r.Failed, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(a.What(), b.What()), cmp.Compare(a.Reason, b.Reason))
	})
}

// hintOf is the remedy for one failure.
func hintOf(err error) string {
	var own interface{ Hint() string }
	switch {
	case errors.As(err, &own):
		return own.Hint()
	case errors.Is(err, seal.ErrDamaged), errors.Is(err, seal.ErrContext), errors.Is(err, seal.ErrCommit):
		return "restore the secret's folder below fleet-state from git, or make a new value: fleet secrets status says with which command"
	}
	return ""
}

// FailedError says which secrets were not installed. All others were.
type FailedError struct{ Report Report }

func (e *FailedError) Error() string {
	lines := []string{fmt.Sprintf("%d of %d secrets and templates of host %q could not be installed:", len(e.Report.Failed), e.Report.Total, e.Report.Host)}
	for _, f := range e.Report.Failed {
		kept := ""
		if f.Kept {
			kept = " (the same value is still in place)"
		}
		lines = append(lines, fmt.Sprintf("  %s: %s%s", f.What(), f.Reason, kept))
	}
	return strings.Join(lines, "\n")
}

// Hint has every remedy once.
func (e *FailedError) Hint() string {
	var hints []string
	for _, f := range e.Report.Failed {
		if f.Hint != "" && !slices.Contains(hints, f.Hint) {
			hints = append(hints, f.Hint)
		}
	}
	return strings.Join(hints, "\n  ")
}
