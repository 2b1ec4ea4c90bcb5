package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Save ends the host as a power cut does, after all that was written has reached the disk, and keeps its file system under a name. The host is down afterwards.
func (h *Host) Save(ctx context.Context, name string) error {
	if _, err := h.Exec(ctx, "sync"); err != nil {
		return err
	}
	if err := h.PowerCut(ctx, false); err != nil {
		return err
	}
	to := h.path("saved", name)
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	lower, err := os.ReadFile(h.path("image"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(to, "lower"), lower, 0o644); err != nil {
		return err
	}
	return os.Rename(h.path("upper"), filepath.Join(to, "upper"))
}

// Restore boots the host with the file system that was saved under a name; what the host did since is lost. The saved one
// is a lower layer of the new one, so this takes no longer than a boot.
func (h *Host) Restore(ctx context.Context, name string) error {
	if err := h.PowerCut(ctx, false); err != nil {
		return err
	}
	from := h.path("saved", name)
	lower, err := os.ReadFile(filepath.Join(from, "lower"))
	if err != nil {
		return fmt.Errorf("restore host %q: %w", h.Name, err)
	}
	for _, dir := range []string{"upper", "work"} {
		if err := os.RemoveAll(h.path(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(h.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(h.path("image"), []byte(filepath.Join(from, "upper")+":"+string(lower)), 0o644); err != nil {
		return err
	}
	h.removeCgroup(ctx)
	return h.start(ctx)
}
