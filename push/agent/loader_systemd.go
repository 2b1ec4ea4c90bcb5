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
)

// bootEntry is one entry of the Boot Loader Specification (uapi-group.org).
type bootEntry struct {
	// Its id is the file's name in lower case, without the counters of boot counting.
	loaderEntry
	sortKey, machineID, version string
	// lanzaboote says that lanzaboote has made it.
	lanzaboote bool
}

// systemdBoot is systemd-boot with its configuration in <boot>/loader.
type systemdBoot struct {
	h    *Host
	boot string
}

func (s systemdBoot) name() string {
	entries, err := s.entries()
	if err == nil && slices.ContainsFunc(entries, func(e bootEntry) bool { return e.lanzaboote }) {
		return "lanzaboote"
	}
	return "systemd-boot"
}

func (s systemdBoot) dir() string { return s.boot }

// read finds the default entry as systemd-boot does: the firmware's variable, then "preferred", then "default", then the first entry.
func (s systemdBoot) read() (menu, error) {
	config, err := readBounded(filepath.Join(s.boot, "loader", "loader.conf"), maxBootFile)
	if err != nil {
		return menu{}, err
	}
	entries, err := s.entries()
	if err != nil {
		return menu{}, err
	}
	var m menu
	for _, entry := range entries {
		m.entries = append(m.entries, entry.loaderEntry)
	}
	variable, err := s.h.efiText("LoaderEntryDefault")
	if err != nil {
		return menu{}, err
	}
	chosen, err := chooseEntry(entries, variable, string(config))
	m.fallback, m.err = chosen.loaderEntry, err
	return m, nil
}

// entries are those of the partition with the loader, and of one beside it for more room (XBOOTLDR), which has no loader.conf.
func (s systemdBoot) entries() ([]bootEntry, error) {
	entries, err := readEntries(s.boot)
	if err != nil {
		return nil, err
	}
	for _, dir := range s.h.Boot {
		if _, err := os.Lstat(filepath.Join(dir, "loader", "loader.conf")); dir == s.boot || err == nil {
			continue
		}
		more, err := readEntries(dir)
		if err != nil {
			return nil, err
		}
		entries = append(entries, more...)
	}
	slices.SortStableFunc(entries, compareEntries)
	return entries, nil
}

// canOneShot looks at what the loader has told about itself at this boot.
func (s systemdBoot) canOneShot() error {
	if s.byFile() {
		return nil
	}
	if s.name() == "lanzaboote" {
		return errors.New("lanzaboote installs generations of the system profile alone and boots the highest of them: a new system cannot be tried once")
	}
	info, err := s.h.efiText("LoaderInfo")
	switch {
	case err != nil:
		return err
	case info == "":
		return errors.New("no boot loader has told the firmware about itself: the host has no EFI variables, or was not booted by systemd-boot")
	case !strings.HasPrefix(info, "systemd-boot"):
		return fmt.Errorf("the files are systemd-boot's, but the host was booted by %q", clip(oneLine(info)))
	}
	features, err := s.h.efiVariable("LoaderFeatures")
	if err != nil {
		return err
	}
	if len(features) == 0 || features[0]&featureOneShot == 0 {
		return fmt.Errorf("%q knows no one-time choice", clip(oneLine(info)))
	}
	if readOnly(s.h.EFIVars) {
		return fmt.Errorf("%s is mounted read-only, so the one-time choice cannot be written", s.h.EFIVars)
	}
	return nil
}

// oneShotFile is where the stand-in for tests, which has no firmware, keeps its one-time choice; byFile is what it says so with.
const oneShotFile = "oneshot"

func (s systemdBoot) byFile() bool {
	_, err := os.Lstat(filepath.Join(s.boot, "loader", oneShotFile+"-by-file"))
	return err == nil
}

func (s systemdBoot) oneShot() (string, error) {
	if !s.byFile() {
		return s.h.efiText("LoaderEntryOneShot")
	}
	text, err := readBounded(filepath.Join(s.boot, "loader", oneShotFile), maxVariable)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

func (s systemdBoot) setOneShot(id string) error {
	if !s.byFile() {
		return s.h.setEFIText("LoaderEntryOneShot", id)
	}
	path := filepath.Join(s.boot, "loader", oneShotFile)
	if id == "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	} else if err := writeAtomically(path, []byte(id+"\n")); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// name in a one-time choice: systemd-boot takes a pattern. One that counts boots is renamed at each, so its counters are left open.
func (s systemdBoot) choice(m menu, entry loaderEntry) (string, error) {
	if strings.ContainsAny(entry.id, "*?[]\\") || entry.id == "" || entry.id[0] == '@' {
		return "", fmt.Errorf("boot entry %q cannot be chosen: its name is a pattern", clip(entry.id))
	}
	if !entry.counted {
		return entry.id, nil
	}
	suffix := filepath.Ext(entry.id)
	pattern := strings.TrimSuffix(entry.id, suffix) + "*" + suffix
	for _, other := range m.entries {
		if matched, _ := path.Match(pattern, other.id); matched && other.id != entry.id {
			return "", fmt.Errorf("boot entry %q cannot be told from %q", clip(entry.id), clip(other.id))
		}
	}
	return pattern, nil
}

func (s systemdBoot) find(m menu, id string) (loaderEntry, bool) {
	for _, entry := range m.entries {
		if matchEntry(id, entry.id) {
			return entry, true
		}
	}
	return loaderEntry{}, false
}

// readEntries reads the entries of a partition that is mounted on dir, in no order.
func readEntries(dir string) ([]bootEntry, error) {
	var entries []bootEntry
	folder := filepath.Join(dir, "loader", "entries")
	files, err := fileNames(folder, ".conf")
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := readBounded(filepath.Join(folder, name), 64<<10)
		if err != nil {
			continue // the loader skips what it cannot read, too
		}
		entry := parseEntry(name, string(text))
		for i, place := range entry.files {
			entry.files[i] = []string{filepath.Join(dir, filepath.Clean("/"+place[0]))}
		}
		entries = append(entries, entry)
	}
	folder = filepath.Join(dir, "EFI", "Linux")
	images, err := fileNames(folder, ".efi")
	if err != nil {
		return nil, err
	}
	for _, name := range images {
		if entry, err := readImage(filepath.Join(folder, name)); err == nil {
			entries = append(entries, entry)
		}
	}
	return entries, nil
}

// fileNames lists the files of a folder with a suffix; a folder that is not there has none.
func fileNames(dir, suffix string) ([]string, error) {
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
	var names []string
	for _, file := range files {
		if strings.HasSuffix(strings.ToLower(file.Name()), suffix) {
			names = append(names, file.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func parseEntry(name, text string) bootEntry {
	e := bootEntry{}
	e.id, e.bad, e.counted = entryID(strings.ToLower(name))
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
		case "linux", "initrd", "efi", "uki", "devicetree":
			e.files = append(e.files, []string{value})
		}
	}
	return e
}

// entryID takes the counters "+LEFT-DONE" off a file's name. An entry without tries left is bad.
func entryID(name string) (id string, bad, counted bool) {
	suffix := filepath.Ext(name)
	stem := strings.TrimSuffix(name, suffix)
	plus := strings.LastIndexByte(stem, '+')
	if plus < 0 || (suffix != ".conf" && suffix != ".efi") {
		return name, false, false
	}
	left, done, _ := strings.Cut(stem[plus+1:], "-")
	if !digits(left) || (done != "" && !digits(done)) {
		return name, false, false
	}
	return stem[:plus] + suffix, strings.Trim(left, "0") == "", true
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
	pattern, _, _ = entryID(pattern)
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
