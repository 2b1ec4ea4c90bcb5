package agent

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"fleet/closure/storepath"
)

// maxGrubDepth bounds how deep menus may be nested; NixOS writes two levels.
const maxGrubDepth = 16

// grubEntry is a menu entry or, where it has children, a submenu.
type grubEntry struct {
	title    string
	options  string
	children []*grubEntry
}

// parseGrub reads a grub.cfg that NixOS has written, and no other: it runs nothing of GRUB's script language. env is the
// environment block that "saved" defaults come from.
func parseGrub(config, env string) (storepath.Path, error) {
	root := &grubEntry{}
	wanted, err := readGrub(config, root)
	if err != nil {
		return storepath.Path{}, err
	}
	wanted = expandGrub(wanted, env)
	entry := root
	for part := range strings.SplitSeq(wanted, ">") {
		if entry = entry.child(part); entry == nil {
			return storepath.Path{}, fmt.Errorf("grub.cfg has no entry %q, its default", clip(wanted))
		}
	}
	for len(entry.children) > 0 {
		entry = entry.children[0] // GRUB enters a submenu and takes its first entry
	}
	path, err := initSystem(entry.options)
	if err != nil {
		return path, fmt.Errorf("grub entry %q: %w", clip(entry.title), err)
	}
	return path, nil
}

// child finds an entry by its number or its title.
func (e *grubEntry) child(name string) *grubEntry {
	if i, err := strconv.Atoi(name); err == nil {
		if i >= 0 && i < len(e.children) {
			return e.children[i]
		}
		return nil
	}
	for _, c := range e.children {
		if c.title == name {
			return c
		}
	}
	return nil
}

// readGrub collects the entries below root and returns what "default" is set to.
func readGrub(config string, root *grubEntry) (string, error) {
	wanted := "0"
	stack := []*grubEntry{root}
	count := 0
	for line := range strings.Lines(config) {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		top := stack[len(stack)-1]
		switch {
		case strings.HasPrefix(line, "#"):
		case word == "menuentry" || word == "submenu":
			if count++; count > maxEntries || len(stack) >= maxGrubDepth {
				return "", errors.New("grub.cfg has too many entries")
			}
			entry := &grubEntry{title: grubTitle(rest)}
			top.children = append(top.children, entry)
			if strings.HasSuffix(line, "{") {
				stack = append(stack, entry)
			}
		case line == "}" && len(stack) > 1:
			stack = stack[:len(stack)-1]
		case strings.HasPrefix(word, "linux") || word == "multiboot" || word == "multiboot2" || word == "module" || word == "module2":
			top.options += " " + rest
		case len(stack) == 1:
			if value, ok := grubDefault(line); ok {
				wanted = value
			}
		}
	}
	return wanted, nil
}

// grubDefault reads an assignment of "default"; that of a one-time entry is not the default.
func grubDefault(line string) (string, bool) {
	value, ok := strings.CutPrefix(strings.TrimPrefix(line, "set "), "default=")
	if !ok {
		return "", false
	}
	value = strings.Trim(value, `"'`)
	return value, !strings.Contains(value, "next_entry")
}

// expandGrub replaces the variable of saved defaults, the only one that NixOS uses here.
func expandGrub(wanted, env string) string {
	if wanted != "${saved_entry}" && wanted != "$saved_entry" && wanted != "saved" {
		return wanted
	}
	for line := range strings.Lines(env) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "saved_entry="); ok && value != "" {
			return value
		}
	}
	return "0"
}

// grubTitle reads the quoted title at the beginning of an entry's arguments.
func grubTitle(rest string) string {
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return ""
	}
	if quote := rest[0]; quote == '"' || quote == '\'' {
		title, _, _ := strings.Cut(rest[1:], string(quote))
		return title
	}
	title, _, _ := strings.Cut(rest, " ")
	return title
}
