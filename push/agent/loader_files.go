package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fleet/closure/storepath"
)

const (
	// maxBootFile bounds one file of a boot loader, in bytes. A grub.cfg with a hundred generations has 100 KB.
	maxBootFile = 4 << 20
	// maxEntries bounds how many boot entries are read.
	maxEntries = 2000
)

// BootDefault is what the machine boots when nobody intervenes.
type BootDefault struct {
	// Loader is "systemd-boot", "lanzaboote", "grub" or "extlinux", and empty where none of them has files here.
	Loader string
	// Toplevel is the default entry's system; the zero Path where Err says why it is not known.
	Toplevel storepath.Path
	Err      error
}

// findLoader looks for a boot loader's files. Where several loaders have files, as after a change of loader, the one counts that was written
// last: every installation writes its own. It returns nil where there is none.
func (h *Host) findLoader() backend {
	var found backend
	var last time.Time
	for _, dir := range h.Boot {
		for _, candidate := range []struct {
			config string
			b      backend
		}{
			{filepath.Join(dir, "loader", "loader.conf"), systemdBoot{h, dir}},
			{filepath.Join(dir, "grub", "grub.cfg"), grub{h, dir}},
			{filepath.Join(dir, "extlinux", "extlinux.conf"), extlinux{h, dir}},
		} {
			info, err := os.Stat(candidate.config)
			if err == nil && info.Mode().IsRegular() && (found == nil || info.ModTime().After(last)) {
				found, last = candidate.b, info.ModTime()
			}
		}
	}
	return found
}

// initSystem returns the toplevel in a kernel command line, from its init=<toplevel>/init.
func initSystem(options string) (storepath.Path, error) {
	for _, word := range strings.Fields(options) {
		if init, ok := strings.CutPrefix(word, "init="); ok {
			path, err := storepath.Parse(strings.TrimSuffix(init, "/init"))
			if err != nil {
				return storepath.Path{}, fmt.Errorf("its init= is no system: %w", err)
			}
			return path, nil
		}
	}
	return storepath.Path{}, errors.New("it has no init=")
}
