package agent

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"fleet/push/health"
	"fleet/push/proto"
)

const (
	maxUnitFile = 256 << 10
	maxDropIns  = 50
)

// unitTree is the folder of a system's units, etc/systemd/system of its toplevel. The zero value is a system that has none: then systemd alone
// says which units there are.
type unitTree struct{ dir string }

func treeOf(toplevel string) unitTree {
	dir := filepath.Join(toplevel, "etc", "systemd", "system")
	if info, err := os.Stat(dir); err != nil || !info.IsDir() || toplevel == "" {
		return unitTree{}
	}
	return unitTree{dir}
}

// template is the name of the template that an instance is made from, and the name itself where it is none.
func template(name string) string {
	at, dot := strings.IndexByte(name, '@'), strings.LastIndexByte(name, '.')
	if at < 0 || dot < at {
		return name
	}
	return name[:at+1] + name[dot:]
}

// file is the file that declares the unit, empty where none does, or one that masks it.
func (t unitTree) file(name string) string {
	for _, candidate := range []string{name, template(name)} {
		path := filepath.Join(t.dir, candidate)
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if !info.Mode().IsRegular() || info.Size() == 0 {
			return "" // masked
		}
		return path
	}
	return ""
}

// declares says whether the system has such a unit.
func (t unitTree) declares(name string, f unitFacts) bool {
	if t.dir == "" {
		return f.State.Load == "loaded" && !f.State.Transient
	}
	return t.file(name) != ""
}

// manual says whether the unit is one that only a person starts, by X-OnlyManualStart of NixOS.
func (t unitTree) manual(name string, f unitFacts) bool {
	file := f.File
	if t.dir != "" {
		file = t.file(name)
	}
	manual := false
	for _, path := range append([]string{file}, t.dropIns(name)...) {
		text, err := readBounded(path, maxUnitFile)
		if err != nil {
			continue
		}
		if value, said := unitSetting(text, "Unit", "X-OnlyManualStart"); said {
			manual = value == "yes" || value == "true" || value == "1" || value == "on"
		}
	}
	return manual
}

// dropIns are the files that extend the unit, in the order in which they count.
func (t unitTree) dropIns(name string) []string {
	if t.dir == "" {
		return nil
	}
	var files []string
	for _, base := range []string{template(name), name} {
		found, err := filepath.Glob(filepath.Join(t.dir, escapeGlob(base)+".d", "*.conf"))
		if err == nil && (base == name || template(name) != name) {
			files = append(files, found...)
		}
		if template(name) == name {
			break
		}
	}
	return files[:min(len(files), maxDropIns)]
}

// escapeGlob makes Glob take a name as it is.
func escapeGlob(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}

// unitSetting is the last value of a setting in a unit file.
func unitSetting(text []byte, section, key string) (value string, said bool) {
	in := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxUnitFile+1)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			in = strings.Trim(line, "[]")
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if ok && in == section && strings.TrimSpace(k) == key {
			value, said = strings.ToLower(strings.TrimSpace(v)), true
		}
	}
	return value, said
}

// HealthOf reads the health checks that a system's own modules declare. A system without any has no file.
func (h *Host) HealthOf(toplevel string) (map[string]proto.HealthCheck, error) {
	path := filepath.Join(toplevel, "etc", "fleet", "health.json")
	text, err := readBounded(path, health.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	checks, err := health.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return checks, nil
}
