package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"fleet/closure/storepath"
)

// loaderVendor is the vendor of systemd-boot's firmware variables (systemd.io/BOOT_LOADER_INTERFACE).
const loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// bootEntry is one type 1 entry of the Boot Loader Specification (uapi-group.org).
type bootEntry struct {
	// id is the file's name in lower case, without the counters of boot counting.
	id string
	// bad says that boot counting has given it up.
	bad                         bool
	sortKey, machineID, version string
	options                     string
}

// systemdBoot finds the default entry as systemd-boot does: the firmware's variable, then "preferred", then "default", then the first entry.
func (h *Host) systemdBoot(dir string) (storepath.Path, error) {
	config, err := readBounded(filepath.Join(dir, "loader.conf"), maxBootFile)
	if err != nil {
		return storepath.Path{}, err
	}
	entries, err := readEntries(filepath.Join(dir, "entries"))
	if err != nil {
		return storepath.Path{}, err
	}
	entry, err := chooseEntry(entries, h.efiDefault(), string(config))
	if err != nil {
		return storepath.Path{}, err
	}
	toplevel, err := initSystem(entry.options)
	if err != nil {
		return toplevel, fmt.Errorf("boot entry %q: %w", clip(entry.id), err)
	}
	return toplevel, nil
}

// efiDefault is what "bootctl set-default" has chosen; empty where it has not, or where the host has no EFI.
func (h *Host) efiDefault() string {
	// Four bytes of attributes, then UTF-16 with a final NUL.
	raw, err := readBounded(filepath.Join(h.EFIVars, "LoaderEntryDefault-"+loaderVendor), 4<<10)
	if err != nil || len(raw) < 4 {
		return ""
	}
	raw = raw[4:]
	var units []uint16
	for i := 0; i+1 < len(raw); i += 2 {
		unit := uint16(raw[i]) | uint16(raw[i+1])<<8
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// readEntries reads a folder of entries, in the order of the loader's menu.
func readEntries(dir string) ([]bootEntry, error) {
	folder, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	files, err := folder.ReadDir(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var entries []bootEntry
	for _, file := range files {
		if !strings.HasSuffix(strings.ToLower(file.Name()), ".conf") {
			continue
		}
		text, err := readBounded(filepath.Join(dir, file.Name()), 64<<10)
		if err != nil {
			continue // the loader skips what it cannot read, too
		}
		entries = append(entries, parseEntry(file.Name(), string(text)))
	}
	slices.SortStableFunc(entries, compareEntries)
	return entries, nil
}

func parseEntry(name, text string) bootEntry {
	e := bootEntry{}
	e.id, e.bad = entryID(strings.ToLower(name))
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		i := strings.IndexAny(line, " \t")
		if i < 0 || line[0] == '#' {
			continue
		}
		value := strings.TrimSpace(line[i:])
		switch line[:i] {
		case "sort-key":
			e.sortKey = value
		case "machine-id":
			e.machineID = value
		case "version":
			e.version = value
		case "options":
			e.options += " " + value
		}
	}
	return e
}

// entryID takes the counters "+LEFT-DONE" off a name. An entry without tries left is bad.
func entryID(name string) (string, bool) {
	stem, suffix := strings.TrimSuffix(name, ".conf"), ".conf"
	plus := strings.LastIndexByte(stem, '+')
	if plus < 0 {
		return name, false
	}
	left, done, _ := strings.Cut(stem[plus+1:], "-")
	if !digits(left) || (done != "" && !digits(done)) {
		return name, false
	}
	return stem[:plus] + suffix, strings.Trim(left, "0") == ""
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// compareEntries is the menu's order: good before bad, sort keys before file names, newest first (Boot Loader Specification, "Sorting").
func compareEntries(a, b bootEntry) int {
	if a.bad != b.bad {
		return boolFirst(b.bad)
	}
	if (a.sortKey == "") != (b.sortKey == "") {
		return boolFirst(a.sortKey != "")
	}
	if a.sortKey != "" {
		if c := cmp.Or(strings.Compare(a.sortKey, b.sortKey), strings.Compare(a.machineID, b.machineID), -compareVersions(a.version, b.version)); c != 0 {
			return c
		}
	}
	return -compareVersions(a.id, b.id)
}

func boolFirst(first bool) int {
	if first {
		return -1
	}
	return 1
}

// chooseEntry takes the first entry that the first matching pattern names.
func chooseEntry(entries []bootEntry, variable, config string) (bootEntry, error) {
	if len(entries) == 0 {
		return bootEntry{}, errors.New("systemd-boot has no entries")
	}
	settings := make(map[string]string)
	for line := range strings.Lines(config) {
		key, value, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		if key == "default" || key == "preferred" {
			settings[key] = strings.TrimSpace(value)
		}
	}
	for i, pattern := range []string{variable, settings["preferred"], settings["default"]} {
		if strings.HasPrefix(pattern, "@") && pattern != "@saved" {
			return bootEntry{}, fmt.Errorf("systemd-boot's default is %q, which is no system of this host", clip(pattern))
		}
		for _, entry := range entries {
			if pattern != "" && matchEntry(pattern, entry.id) && (i != 1 || !entry.bad) {
				return entry, nil
			}
		}
	}
	return entries[0], nil
}

// matchEntry compares without case. A pattern without ".conf" names the same entry, as older loaders wrote it.
func matchEntry(pattern, id string) bool {
	pattern = strings.ToLower(pattern)
	if stem, bad := entryID(pattern); stem != pattern {
		pattern, _ = stem, bad
	}
	if pattern == id || pattern+".conf" == id {
		return true
	}
	matched, err := path.Match(pattern, id)
	return err == nil && matched
}

// compareVersions compares as the Version Format Specification says (uapi-group.org): digits by number and above letters, a
// version that ends below one that goes on, except with "~".
func compareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, separator), strings.TrimLeftFunc(b, separator)
		if c := compareMark('~', &a, &b); c != 0 {
			return c
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		for _, mark := range []byte("-^.") {
			if c := compareMark(mark, &a, &b); c != 0 {
				return c
			}
		}
		var c int
		if a != "" && isDigit(rune(a[0])) || b != "" && isDigit(rune(b[0])) {
			numA, numB := strings.TrimLeft(take(&a, isDigit), "0"), strings.TrimLeft(take(&b, isDigit), "0")
			c = cmp.Or(cmp.Compare(len(numA), len(numB)), strings.Compare(numA, numB))
		} else {
			c = strings.Compare(take(&a, isLetter), take(&b, isLetter))
		}
		if c != 0 {
			return c
		}
	}
}

// compareMark orders two versions of which one goes on with the mark: that one is lower. Where both do, the mark is cut off.
func compareMark(mark byte, a, b *string) int {
	inA, inB := strings.HasPrefix(*a, string(mark)), strings.HasPrefix(*b, string(mark))
	if inA && inB {
		*a, *b = (*a)[1:], (*b)[1:]
	}
	if inA == inB {
		return 0
	}
	if inA {
		return -1
	}
	return 1
}

func isDigit(r rune) bool  { return r >= '0' && r <= '9' }
func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

func separator(r rune) bool {
	return !isDigit(r) && !isLetter(r) && !strings.ContainsRune("~-^.", r)
}

// take cuts the leading run of characters off s.
func take(s *string, of func(rune) bool) string {
	rest := strings.TrimLeftFunc(*s, of)
	head := (*s)[:len(*s)-len(rest)]
	*s = rest
	return head
}
