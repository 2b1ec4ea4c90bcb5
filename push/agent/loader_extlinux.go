package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// extlinux is what NixOS calls generic-extlinux-compatible: U-Boot and the like read its file, and have nothing that they could write.
type extlinux struct {
	h    *Host
	boot string
}

func (extlinux) name() string  { return "extlinux" }
func (x extlinux) dir() string { return x.boot }

func (extlinux) canOneShot() error {
	return errors.New("extlinux has no one-time choice: it boots its default, again and again, so a new system cannot be tried once")
}

func (extlinux) oneShot() (string, error) { return "", nil }

func (x extlinux) setOneShot(id string) error {
	if id == "" {
		return nil
	}
	return x.canOneShot()
}

func (x extlinux) choice(menu, loaderEntry) (string, error) { return "", x.canOneShot() }

func (extlinux) find(menu, string) (loaderEntry, bool) { return loaderEntry{}, false }

func (x extlinux) read() (menu, error) {
	dir := filepath.Join(x.boot, "extlinux")
	text, err := readBounded(filepath.Join(dir, "extlinux.conf"), maxBootFile)
	if err != nil {
		return menu{}, err
	}
	m := parseExtlinux(string(text))
	for _, entry := range m.entries {
		resolveExtlinux(dir, entry.files)
	}
	return m, nil
}

// resolveExtlinux makes paths absolute: those of NixOS begin at the file's folder, others at the partition.
func resolveExtlinux(dir string, files [][]string) {
	for i, places := range files {
		name := places[0]
		base := dir
		if filepath.IsAbs(name) {
			base = filepath.Dir(dir)
		}
		files[i] = []string{filepath.Join(base, name)}
	}
}

// parseExtlinux reads what NixOS writes for generic-extlinux-compatible loaders.
func parseExtlinux(text string) menu {
	m := menu{err: errors.New("extlinux.conf names no default")}
	fallback := ""
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSpace(value)
		key = strings.ToUpper(key)
		switch {
		case key == "DEFAULT":
			fallback = value
		case key == "LABEL" && len(m.entries) < maxEntries:
			m.entries = append(m.entries, loaderEntry{id: value})
		case len(m.entries) == 0:
		case key == "APPEND":
			m.entries[len(m.entries)-1].options = value
		case key == "LINUX" || key == "KERNEL" || key == "INITRD" || key == "FDT":
			last := &m.entries[len(m.entries)-1]
			last.files = append(last.files, []string{value})
		}
	}
	if fallback == "" {
		return m
	}
	m.err = fmt.Errorf("extlinux.conf has no entry %q, its default", clip(fallback))
	for _, entry := range m.entries {
		if entry.id == fallback {
			m.fallback, m.err = entry, nil
		}
	}
	return m
}
