package install

import (
	"context"
	"errors"

	"fleet/secretsgen/secret"
)

// Clear takes away what was installed, in both phases: for a system that declares no secrets, and so has no units that would do it. It changes
// nothing where nothing was installed. Of opt, the phase is not looked at.
func Clear(ctx context.Context, opt Options) error {
	nothing := &Manifest{Format: secret.Format, Fleet: "none", Host: "none"}
	var failed error
	for _, phase := range Phases() {
		opt.Phase = phase
		_, err := Install(ctx, nothing, opt)
		failed = errors.Join(failed, err)
	}
	return failed
}
