package agent

import (
	"errors"
	"fmt"
	"io/fs"
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
	// Loader is "systemd-boot", "grub" or "extlinux", and empty where none of them has files here.
	Loader string
	// Toplevel is the default entry's system; the zero Path where Err says why it is not known.
	Toplevel storepath.Path
	Err      error
}

// loader is a boot loader whose files were found.
type loader struct {
	name string
	// written is when its configuration was written last.
	written time.Time
	// toplevel finds the default entry's system.
	toplevel func() (storepath.Path, error)
}

// BootDefault reads the files of the boot loader. Where several loaders have files, as after a change of
// loader, the one counts that was written last: every installation writes its own.
func (h *Host) BootDefault() BootDefault {
	var found *loader
	for _, dir := range h.Boot {
		for _, candidate := range h.loaders(dir) {
			if found == nil || candidate.written.After(found.written) {
				found = &candidate
			}
		}
	}
	if found == nil {
		return BootDefault{}
	}
	toplevel, err := found.toplevel()
	return BootDefault{Loader: found.name, Toplevel: toplevel, Err: err}
}

func (h *Host) loaders(dir string) []loader {
	var found []loader
	add := func(name, config string, toplevel func() (storepath.Path, error)) {
		info, err := os.Stat(config)
		if err == nil && info.Mode().IsRegular() {
			found = append(found, loader{name, info.ModTime(), toplevel})
		}
	}
	add("systemd-boot", filepath.Join(dir, "loader", "loader.conf"), func() (storepath.Path, error) {
		return h.systemdBoot(filepath.Join(dir, "loader"))
	})
	grub := filepath.Join(dir, "grub")
	add("grub", filepath.Join(grub, "grub.cfg"), func() (storepath.Path, error) { return grubFiles(grub) })
	extlinux := filepath.Join(dir, "extlinux", "extlinux.conf")
	add("extlinux", extlinux, func() (storepath.Path, error) {
		text, err := readBounded(extlinux, maxBootFile)
		if err != nil {
			return storepath.Path{}, err
		}
		return parseExtlinux(string(text))
	})
	return found
}

func grubFiles(dir string) (storepath.Path, error) {
	config, err := readBounded(filepath.Join(dir, "grub.cfg"), maxBootFile)
	if err != nil {
		return storepath.Path{}, err
	}
	// The environment block is 1 KiB (grub-editenv); it may be absent.
	env, err := readBounded(filepath.Join(dir, "grubenv"), 64<<10)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storepath.Path{}, err
	}
	return parseGrub(string(config), string(env))
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

// parseExtlinux reads what NixOS writes for generic-extlinux-compatible loaders.
func parseExtlinux(text string) (storepath.Path, error) {
	fallback, label := "", ""
	options := make(map[string]string)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSpace(value)
		switch strings.ToUpper(key) {
		case "DEFAULT":
			fallback = value
		case "LABEL":
			label = value
		case "APPEND":
			if label != "" && len(options) < maxEntries {
				options[label] = value
			}
		}
	}
	if fallback == "" {
		return storepath.Path{}, errors.New("extlinux.conf names no default")
	}
	line, ok := options[fallback]
	if !ok {
		return storepath.Path{}, fmt.Errorf("extlinux.conf has no entry %q, its default", clip(fallback))
	}
	path, err := initSystem(line)
	if err != nil {
		return path, fmt.Errorf("extlinux entry %q: %w", clip(fallback), err)
	}
	return path, nil
}
