package closure

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"

	"fleet/closure/storepath"
)

// ChooseBases finds for each of paths the path of have that is most likely its predecessor, which a delta is made against. In this order, it has
//
//   - the same contents, under whatever name: they have moved;
//   - the same name: "etc", "source", "unit-sshd.service";
//   - the same name but for the version, which are the parts that begin with a digit: "openssl-3.0.13-dev" for "openssl-3.0.14-dev", with the
//     same number of dashes if there is one;
//   - the same name but for all numbers: "python3.12-six-1.16.0" for "python3.13-six-1.17.0".
//
// The name with the nearest version is taken. Among paths of that name each gets a base of its own, the nearest NAR sizes first; where
// there are too few bases, some are chosen twice. A base that is among paths itself has not been replaced, and is chosen only when no other of its name is left.
//
// Paths that have holds need no base and get none. The result does not depend on the order of the arguments, nor on what they hold twice.
func ChooseBases(paths, have []PathInfo) map[storepath.Path]PathInfo {
	old := uniqueInfos(have)
	c := baseChooser{bases: make(map[storepath.Path]PathInfo), taken: make(map[storepath.Path]bool), named: make(map[string][]PathInfo)}
	there := make(map[storepath.Path]bool, len(old))
	for _, info := range old {
		there[info.Path] = true
		c.named[info.Path.Name()] = append(c.named[info.Path.Name()], info)
	}
	moved := make(map[[sha256.Size]byte]PathInfo, len(old))
	for _, info := range old {
		moved[info.NarHash] = info
	}
	var left []PathInfo
	for _, info := range uniqueInfos(paths) {
		same, found := moved[info.NarHash]
		switch {
		case there[info.Path]:
			c.taken[info.Path] = true
		case found && same.NarSize == info.NarSize && info.NarHash != [sha256.Size]byte{}:
			c.bases[info.Path] = same
		default:
			left = append(left, info)
		}
	}
	for _, key := range nameKeys {
		left = c.choose(left, key)
	}
	return c.bases
}

// baseChooser is what has been chosen so far.
type baseChooser struct {
	bases map[storepath.Path]PathInfo
	// taken are the bases that belong to a path.
	taken map[storepath.Path]bool
	// named are all that may be bases, by name, each list sorted by path.
	named map[string][]PathInfo
}

// choose finds bases among those of the same key, and returns the paths that have none. An empty key has nothing in common with anything.
func (c *baseChooser) choose(paths []PathInfo, key nameKey) (left []PathInfo) {
	candidates := c.namesByKey(key)
	chosen := make(map[string][]PathInfo)
	for _, info := range paths {
		name := info.Path.Name()
		if names := candidates[key(name)]; len(names) > 0 {
			base := nearestName(names, name)
			chosen[base] = append(chosen[base], info)
		} else {
			left = append(left, info)
		}
	}
	for _, base := range slices.Sorted(maps.Keys(chosen)) {
		c.pair(chosen[base], c.named[base])
	}
	return left
}

// namesByKey are the names of bases, in the order of their numbers.
func (c *baseChooser) namesByKey(key nameKey) map[string][]string {
	names := make(map[string][]string, len(c.named))
	for name := range c.named {
		if k := key(name); k != "" {
			names[k] = append(names[k], name)
		}
	}
	for _, list := range names {
		slices.SortFunc(list, compareNames)
	}
	return names
}

// pair gives each path one of bases, which all have the same name.
func (c *baseChooser) pair(paths, bases []PathInfo) {
	free := slices.DeleteFunc(slices.Clone(bases), func(info PathInfo) bool { return c.taken[info.Path] })
	for path, base := range pairBySize(paths, free) {
		c.bases[path] = base
		c.taken[base.Path] = true
	}
	for _, info := range paths {
		if _, ok := c.bases[info.Path]; !ok {
			c.bases[info.Path] = nearestSize(bases, info.NarSize)
		}
	}
}

func nearestSize(bases []PathInfo, size uint64) PathInfo {
	return slices.MinFunc(bases, func(a, b PathInfo) int {
		return cmp.Or(cmp.Compare(distance(a.NarSize, size), distance(b.NarSize, size)), a.Path.Compare(b.Path))
	})
}

func distance(a, b uint64) uint64 { return max(a, b) - min(a, b) }

// uniqueInfos returns infos in the order of their paths, each path once.
func uniqueInfos(infos []PathInfo) []PathInfo {
	sorted := slices.Clone(infos)
	slices.SortStableFunc(sorted, func(a, b PathInfo) int { return a.Path.Compare(b.Path) })
	return slices.CompactFunc(sorted, func(a, b PathInfo) bool { return a.Path == b.Path })
}
