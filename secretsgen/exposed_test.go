package secretsgen_test

import (
	"context"
	"strings"
	"testing"

	"fleet/evaluator/plan"
	"fleet/secretsgen/secret"
)

// declaredPublic is what a change of one word makes of an encrypted part.
func declaredPublic(part string) func(*plan.Secret) {
	return func(s *plan.Secret) { s.Parts[part] = plan.SecretPart{Type: "text"} }
}

// TestAPartThatIsDeclaredAsPublicByNowIsNotPublished: a merge request that takes `encrypted` from a part must not have an owner open the
// value, and this machine write it into git.
func TestAPartThatIsDeclaredAsPublicByNowIsNotPublished(t *testing.T) {
	const value = "a-value-that-was-encrypted"
	extra := func(s *plan.Secret) { s.Parts["extra"] = plan.SecretPart{Encrypted: true} }
	r := newRig(t, "a")
	r.declare(shared("x"), spec(owners("a"), manual, extra), "")
	r.set(shared("x"), map[string]secret.Plain{"secret": plain(value), "extra": plain("other")})
	r.declare(shared("x"), spec(owners("a"), manual, extra, declaredPublic("secret")), "")
	got := r.set(shared("x"), map[string]secret.Plain{"extra": plain("new")})
	if got.Done || !strings.Contains(got.Error+got.NeedsHuman, "public") {
		t.Errorf("set of another part: %s", show(got))
	}
	_, err := r.engine.Edit(t.Context(), shared("x"), "secret", func(_ context.Context, old secret.Plain) (secret.Plain, error) {
		return plain(string(old.Bytes()) + "!"), nil
	})
	if err == nil || !strings.Contains(err.Error(), "public") {
		t.Errorf("edit: %v", err)
	}
	r.nowhere(value, got, err)
	// A person who gives it anew is told.
	if got := r.set(shared("x"), map[string]secret.Plain{"secret": plain("for everybody"), "extra": plain("new")}); !got.Done || !strings.Contains(show(got.Notices), "public") {
		t.Errorf("set: %s", show(got))
	}
}
