package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"fleet/secretsgen/install"
)

// installerPatience bounds how long another installer is waited for.
const installerPatience = 30 * time.Second

// dropSecrets takes the secrets of the systems before away from a host whose system declares none: it has no unit that would.
func (h *Host) dropSecrets(ctx context.Context, system string) error {
	if _, err := os.Stat(filepath.Join(system, manifestFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	installed, err := filepath.Glob(filepath.Join(h.Run, "secrets*.d"))
	if err != nil || len(installed) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, installerPatience)
	defer cancel()
	return install.Clear(ctx, install.Options{Root: h.Run, Mount: true})
}
