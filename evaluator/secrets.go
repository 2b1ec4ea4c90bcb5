package evaluator

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// PublicRef is a public part of a secret.
type PublicRef struct {
	// ID is the secret's, "shared/NAME" or "host/HOST/NAME".
	ID   string
	Part string
}

func (r PublicRef) String() string { return fmt.Sprintf("%s of %s", r.Part, r.ID) }

// MissingPublicError says that a host does not evaluate because it reads public parts of secrets that the state does not have. It
// wraps the [*EvalError].
type MissingPublicError struct {
	Host string
	// Refs are the parts that Nix named. It stops at the first, so there may be more.
	Refs []PublicRef
	Err  *EvalError
}

func (e *MissingPublicError) Error() string {
	return fmt.Sprintf("evaluate host %q: the state does not have the public part %s, which it reads", e.Host, joinRefs(e.Refs))
}

// Unwrap gives what Nix said.
func (e *MissingPublicError) Unwrap() error { return e.Err }

// Hint is the command that makes them.
func (e *MissingPublicError) Hint() string { return "make it: fleet secrets sync" }

func joinRefs(refs []PublicRef) string {
	texts := make([]string, len(refs))
	for i, r := range refs {
		texts[i] = r.String()
	}
	return strings.Join(texts, ", ")
}

// MissingSecretsError says that a host's system cannot be evaluated before secrets are made.
type MissingSecretsError struct {
	Host string
	// Missing are the ids of the secrets.
	Missing []string
}

func (e *MissingSecretsError) Error() string {
	return fmt.Sprintf("evaluate host %q: the state does not have for it: %s", e.Host, strings.Join(e.Missing, ", "))
}

// Hint is the command that makes them.
func (e *MissingSecretsError) Hint() string { return "make them: fleet secrets sync" }

// MissingSecrets is the error for a record whose system waits for secrets, and nil for any other.
func (r RecordResult) MissingSecrets() error {
	if r.Err != nil || r.Record.System != nil || r.Record.Specs == nil || len(r.Record.Specs.Missing) == 0 {
		return nil
	}
	return &MissingSecretsError{Host: r.Host, Missing: r.Record.Specs.Missing}
}

// orMissingPublic makes an error that names public parts into one that has them as data. flakeModule writes the lines.
func orMissingPublic(failed *EvalError, errs []Message) error {
	line := regexp.MustCompile(`(?m)^[ \t]*(?:error:[ \t]*)?fleet-missing-public: ((?:shared|host/[A-Za-z0-9_.-]+)/[A-Za-z0-9_.-]+) ([A-Za-z0-9_.-]+)[ \t]*\r?$`)
	var refs []PublicRef
	for _, m := range errs {
		for _, match := range line.FindAllStringSubmatch(m.Raw+"\n"+m.Text, -1) {
			if ref := (PublicRef{ID: match[1], Part: match[2]}); !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
	}
	if len(refs) == 0 {
		return failed
	}
	return &MissingPublicError{Host: failed.Host, Refs: refs, Err: failed}
}
