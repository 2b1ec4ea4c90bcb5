package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxGrubDepth bounds how deep menus may be nested; NixOS writes two levels.
const maxGrubDepth = 16

// grub is GRUB with its configuration in <boot>/grub.
type grub struct {
	h    *Host
	boot string
}

func (grub) name() string  { return "grub" }
func (g grub) dir() string { return g.boot }

func (g grub) envFile() string { return filepath.Join(g.boot, "grub", "grubenv") }

func (g grub) config() (string, error) {
	text, err := readBounded(filepath.Join(g.boot, "grub", "grub.cfg"), maxBootFile)
	return string(text), err
}

func (g grub) read() (menu, error) {
	config, err := g.config()
	if err != nil {
		return menu{}, err
	}
	env, err := readEnv(g.envFile())
	if err != nil {
		env = "" // GRUB goes on without what it cannot read, too
	}
	m, err := parseGrub(config, env)
	if err != nil {
		return m, err
	}
	// The default and the tree share these.
	for _, entry := range m.entries {
		for i, places := range entry.files {
			entry.files[i] = grubPlaces(g.boot, places[0])
		}
	}
	return m, nil
}

// grubPlaces are where a file may lie that GRUB names by its drive's root. What is mounted where GRUB does not say, so the names are told by what NixOS
// calls them: a copy in <boot>/kernels, or the store, whose drive may be /, /nix, or a subvolume of either.
func grubPlaces(boot, name string) []string {
	if drive, rest, ok := strings.Cut(name, ")"); ok && strings.HasPrefix(drive, "(") {
		name = rest
	}
	name = path.Clean("/" + name)
	places := []string{filepath.Join(boot, name), filepath.Join(filepath.Dir(boot), name)}
	if i := strings.LastIndex(name, "/kernels/"); i >= 0 {
		places = append(places, filepath.Join(boot, name[i:]))
	}
	if i := strings.LastIndex(name, "/store/"); i >= 0 {
		places = append(places, "/nix"+name[i:])
	}
	return places
}

// canOneShot looks whether grub.cfg heeds a one-time choice, and whether GRUB can take it back: a choice that stays would be booted again and again.
func (g grub) canOneShot() error {
	config, err := g.config()
	if err != nil {
		return err
	}
	head, _, _ := strings.Cut(config, "menuentry ")
	head = strings.ReplaceAll(head, `"`, "")
	for _, words := range []string{"load_env", "default=${next_entry}", "save_env next_entry"} {
		if !strings.Contains(head, words) {
			return fmt.Errorf("grub.cfg heeds no one-time choice: it has no %q", words)
		}
	}
	if _, err := readEnv(g.envFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return g.h.grubCanWrite(filepath.Dir(g.envFile()))
}

func (g grub) oneShot() (string, error) {
	env, err := readEnv(g.envFile())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return envValue(env, nextEntry), err
}

func (g grub) setOneShot(id string) error { return setEnv(g.envFile(), nextEntry, id) }

// choice prefers titles: numbers count what is in grub.cfg, and an entry may stand there under a condition.
func (g grub) choice(m menu, entry loaderEntry) (string, error) {
	var titles []string
	parent := m.root
	for part := range strings.SplitSeq(entry.id, ">") {
		child := parent.child(part)
		if child == nil {
			return "", fmt.Errorf("grub.cfg has no entry %q", clip(entry.id))
		}
		same := func(c *grubEntry) bool { return c.title == child.title }
		plain := child.title != "" && !strings.ContainsAny(child.title, ">\\$\"\n\r\x00") && !digits(child.title[:1]) && strings.TrimSpace(child.title) == child.title
		if !plain || slices.IndexFunc(parent.children, same) != slices.Index(parent.children, child) {
			titles = nil
			break
		}
		titles = append(titles, child.title)
		parent = child
	}
	switch {
	case len(titles) > 0:
		return strings.Join(titles, ">"), nil
	case m.root.conditional:
		return "", fmt.Errorf("GRUB entry %q cannot be chosen: its title is no name, and it has no fixed number", clip(entry.id))
	}
	return entry.id, nil
}

func (grub) find(m menu, id string) (loaderEntry, bool) {
	entry := m.root
	for part := range strings.SplitSeq(id, ">") {
		if entry = entry.child(part); entry == nil {
			return loaderEntry{}, false
		}
	}
	for len(entry.children) > 0 {
		entry = entry.children[0] // GRUB enters a submenu and takes its first entry
	}
	return entry.loaderEntry, true
}

// grubEntry is a menu entry or, where it has children, a submenu. Its id is its number in the menu, after those of the menus that it is in.
type grubEntry struct {
	loaderEntry
	title    string
	children []*grubEntry
	// conditional says, of the root, that entries stand under a condition.
	conditional bool
}

// parseGrub reads a grub.cfg that NixOS has written, and no other: it runs nothing of GRUB's script language. env is the
// environment block that "saved" defaults come from.
func parseGrub(config, env string) (menu, error) {
	m := menu{root: &grubEntry{}}
	wanted, err := readGrub(config, m.root)
	if err != nil {
		return m, err
	}
	m.root.number("", &m.entries)
	wanted = expandGrub(wanted, env)
	entry, ok := grub{}.find(m, wanted)
	if !ok {
		m.err = fmt.Errorf("grub.cfg has no entry %q, its default", clip(wanted))
	}
	m.fallback = entry
	return m, nil
}

// number gives the entries their ids, and collects those that boot something.
func (e *grubEntry) number(prefix string, all *[]loaderEntry) {
	for i, child := range e.children {
		child.id = prefix + strconv.Itoa(i)
		if len(child.children) == 0 {
			*all = append(*all, child.loaderEntry)
		}
		child.number(child.id+">", all)
	}
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
	count, conditions := 0, 0
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
			root.conditional = root.conditional || conditions > 0
			if strings.HasSuffix(line, "{") {
				stack = append(stack, entry)
			}
		case line == "}" && len(stack) > 1:
			stack = stack[:len(stack)-1]
		case strings.HasPrefix(word, "linux") || word == "multiboot" || word == "multiboot2" || word == "module" || word == "module2":
			name, options, _ := strings.Cut(strings.TrimSpace(rest), " ")
			top.options += " " + options
			top.files = append(top.files, []string{name})
		case word == "initrd":
			for _, name := range strings.Fields(rest) {
				top.files = append(top.files, []string{name})
			}
		case word == "if":
			conditions++
		case word == "fi":
			conditions--
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
	if value := envValue(env, "saved_entry"); value != "" {
		return value
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
