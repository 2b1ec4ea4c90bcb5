package closure

import (
	"cmp"
	"slices"
	"strings"

	"fleet/closure/storepath"
)

// ChooseBases finds for each of paths the path of have that is most likely its predecessor, which a delta is made against: one of the same name, else one
// whose name differs in its versions alone, else one of the same package and output. Among several, the one whose NAR has the nearest size is taken, and
// among equals the first. Paths that have holds too are left out. The result is the same whatever the order of have.
func ChooseBases(paths, have []PathInfo) map[storepath.Path]PathInfo {
	index := make(map[string][]PathInfo, 3*len(have))
	there := make(map[storepath.Path]bool, len(have))
	for _, info := range have {
		if there[info.Path] {
			continue
		}
		there[info.Path] = true
		for _, key := range nameKeys(info.Path.Name()) {
			index[key] = append(index[key], info)
		}
	}
	bases := make(map[storepath.Path]PathInfo)
	for _, info := range paths {
		if there[info.Path] {
			continue
		}
		for _, key := range nameKeys(info.Path.Name()) {
			if candidates := index[key]; len(candidates) > 0 {
				bases[info.Path] = nearest(candidates, info.NarSize)
				break
			}
		}
	}
	return bases
}

// nearest returns the candidate whose NAR has the nearest size.
func nearest(candidates []PathInfo, size uint64) PathInfo {
	return slices.MinFunc(candidates, func(a, b PathInfo) int {
		return cmp.Or(cmp.Compare(distance(a.NarSize, size), distance(b.NarSize, size)), a.Path.Compare(b.Path))
	})
}

func distance(a, b uint64) uint64 { return max(a, b) - min(a, b) }

// nameKeys are what two names have in common, from the strictest to the loosest. They cannot be taken for each other.
func nameKeys(name string) [3]string {
	return [3]string{"=" + name, "#" + maskVersions(name), "~" + packageOutput(name)}
}

// maskVersions replaces each number, with the dots and numbers that follow it, by one character.
func maskVersions(name string) string {
	var masked strings.Builder
	for i := 0; i < len(name); {
		if !isDigit(name[i]) {
			masked.WriteByte(name[i])
			i++
			continue
		}
		for i < len(name) && (isDigit(name[i]) || name[i] == '.' && i+1 < len(name) && isDigit(name[i+1])) {
			i++
		}
		masked.WriteByte('#')
	}
	return masked.String()
}

// packageOutput is a name's package, which ends before the first dash with a digit behind it, and its output, a last part of letters alone, as in
// "openssl-3.0.14-dev".
func packageOutput(name string) string {
	parts := strings.Split(name, "-")
	version := slices.IndexFunc(parts, func(part string) bool { return part != "" && isDigit(part[0]) })
	if version < 1 {
		return name
	}
	output := ""
	if last := parts[len(parts)-1]; len(parts)-1 > version && !strings.ContainsFunc(last, func(c rune) bool { return c < 'a' || c > 'z' }) {
		output = last
	}
	return strings.Join(parts[:version], "-") + " " + output
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
