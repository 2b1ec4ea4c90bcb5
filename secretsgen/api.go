package secretsgen

import (
	"context"
	"errors"

	"fleet/evaluator/plan"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// Status says what [Engine.Sync] would do, for every secret of the selection that is declared or in the state. It changes nothing, asks
// nobody and reaches no host.
func (e *Engine) Status(ctx context.Context, selection Selection) (*Status, error) {
	return nil, errors.ErrUnsupported
}

// Sync carries out what [Engine.Status] says: it generates, seals to more owners, and removes former owners' copies. Dependencies
// that have no value are made too, selected or not. Each finished secret is saved at once; what failed is in the report, and the rest goes on. The error
// is about the whole operation, such as a state that another process has locked; the report is then nil.
func (e *Engine) Sync(ctx context.Context, selection Selection) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// EnsureMissing makes what the hosts need and do not have, and nothing else: their missing secrets, and their copies of shared ones. specs are theirs. extra are
// secrets of other hosts whose public parts evaluation asked for: the host's secret of that name is made for every host that declares it and has
// none. What would change a value that there is, is left to sync and said in NeedsHuman.
func (e *Engine) EnsureMissing(ctx context.Context, hosts []string, specs map[string]plan.Specs, extra []secret.ID) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// Regenerate makes new values whatever the state is, and then those of secrets that depend on them.
func (e *Engine) Regenerate(ctx context.Context, ids []secret.ID) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// ReadableBy lists what a host can or could read: what it owns, and values that it owned and that are still the current ones.
func (e *Engine) ReadableBy(host string) ([]secret.ID, error) { return nil, errors.ErrUnsupported }

// Rotate makes new values of all that a host can or could read, see [Engine.ReadableBy]; those that a person gave are in NeedsHuman.
func (e *Engine) Rotate(ctx context.Context, readableBy string) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// Rekey seals values anew where an owner's key has changed, its copy is damaged or of another generation, and does nothing else of [Engine.Sync].
func (e *Engine) Rekey(ctx context.Context, selection Selection) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// Set takes a value that a person gave, by part, and seals it here. Parts that are not given keep their value, for which an owner has to be
// reachable; a secret without a value needs all of them. The values are wiped.
func (e *Engine) Set(ctx context.Context, id secret.ID, values map[string]secret.Plain) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// Edit opens a part through an owner, has the caller edit it, and sets what came back, unless that is the same or another value was set
// meanwhile. A part without a value is empty. Nothing is locked while edit runs.
func (e *Engine) Edit(ctx context.Context, id secret.ID, part string, edit func(context.Context, secret.Plain) (secret.Plain, error)) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// Accept takes the present values as those of the declarations as they are now: changed arguments, scripts and dependencies ask for new values no more.
func (e *Engine) Accept(ctx context.Context, ids []secret.ID) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// Get returns the value of a part: from the state where it is public, else through an owner, the next one where one cannot be reached.
func (e *Engine) Get(ctx context.Context, id secret.ID, part string) (secret.Plain, error) {
	return secret.Plain{}, errors.ErrUnsupported
}

// Verify has the owners decrypt what they own and compare it with what meta.json commits to. It changes nothing.
func (e *Engine) Verify(ctx context.Context, selection Selection) (*Verification, error) {
	return nil, errors.ErrUnsupported
}

// Undeclared lists the secrets of the selection that the state has and nothing declares. Hosts whose declarations could not be
// evaluated are left out, and in the second result.
func (e *Engine) Undeclared(ctx context.Context, selection Selection) ([]secret.ID, []HostProblem, error) {
	return nil, nil, errors.ErrUnsupported
}

// Prune removes these secrets from the state, if nothing declares them.
func (e *Engine) Prune(ctx context.Context, ids []secret.ID) (*Report, error) {
	return nil, errors.ErrUnsupported
}

// Resolve ends git's conflicts in these secrets, in all that have one where ids is nil, with the whole value of one side.
func (e *Engine) Resolve(ctx context.Context, ids []secret.ID, side state.Side) ([]secret.ID, error) {
	return nil, errors.ErrUnsupported
}

// ScanHostKeys compares the keys that hosts' SSH servers show with those that are pinned and accepted. It pins and accepts nothing.
func (e *Engine) ScanHostKeys(ctx context.Context, hosts []string) ([]HostKey, error) {
	return nil, errors.ErrUnsupported
}
