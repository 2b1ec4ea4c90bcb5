package closure

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// nameKey returns what names that may replace each other have in common. An empty key is of a name that this rule says nothing of.
type nameKey func(name string) string

// nameKeys are the rules, from the strictest to the loosest.
var nameKeys = [...]nameKey{
	func(name string) string { return name },
	func(name string) string {
		pkg, output, ok := splitVersion(name)
		if !ok {
			return ""
		}
		return pkg + " " + output + " " + strconv.Itoa(strings.Count(name, "-"))
	},
	func(name string) string {
		pkg, output, ok := splitVersion(name)
		if !ok {
			return ""
		}
		return pkg + " " + output
	},
	func(name string) string {
		pkg, output, ok := splitVersion(name)
		if !ok {
			return maskNumbers(name)
		}
		return maskNumbers(pkg) + " " + maskNumbers(output)
	},
}

// splitVersion cuts a name into the package, the version, which goes from the first part that begins with a digit to the last one, and the
// output: "glibc-2.40-66-dev" is "glibc" and "dev". The first part is never a version.
func splitVersion(name string) (pkg, output string, ok bool) {
	parts := strings.Split(name, "-")
	first, last := 0, 0
	for i, part := range parts {
		if i > 0 && part != "" && isDigit(part[0]) {
			first, last = cmp.Or(first, i), i
		}
	}
	if first == 0 {
		return name, "", false
	}
	return strings.Join(parts[:first], "-"), strings.Join(parts[last+1:], "-"), true
}

// maskNumbers puts one character in place of each number, with the dots and numbers that follow it.
func maskNumbers(name string) string {
	masked := make([]byte, 0, len(name))
	for i := 0; i < len(name); i++ {
		c := name[i]
		within := len(masked) > 0 && masked[len(masked)-1] == '#'
		switch {
		case isDigit(c) && within, c == '.' && within && i+1 < len(name) && isDigit(name[i+1]):
		case isDigit(c):
			masked = append(masked, '#')
		default:
			masked = append(masked, c)
		}
	}
	return string(masked)
}

// nearestName returns the one of names, which are sorted by [compareNames], that has the most in common with name, and the nearest number
// behind that. Between equals it is the smaller one, the older version. It is always a neighbour of name.
func nearestName(names []string, name string) string {
	at, found := slices.BinarySearchFunc(names, name, compareNames)
	switch {
	case found, at == 0:
		return names[at]
	case at == len(names):
		return names[at-1]
	}
	before, after := names[at-1], names[at]
	commonBefore, gapBefore := nearness(before, name)
	commonAfter, gapAfter := nearness(after, name)
	if cmp.Or(cmp.Compare(commonBefore, commonAfter), cmp.Compare(gapAfter, gapBefore)) < 0 {
		return after
	}
	return before
}

// nearness returns how many bytes two names have in common before the first number, or other text, in which they differ, and by how much the
// numbers differ there: 2^64-1 where it is not two numbers.
func nearness(a, b string) (common int, gap uint64) {
	for a != "" && b != "" {
		x, y := token(a), token(b)
		if x != y {
			m, errX := strconv.ParseUint(x, 10, 64)
			n, errY := strconv.ParseUint(y, 10, 64)
			if errX != nil || errY != nil {
				break
			}
			return common, distance(m, n)
		}
		common += len(x)
		a, b = a[len(x):], b[len(y):]
	}
	return common, 1<<64 - 1
}

// compareNames orders names as their texts are, but numbers in them as numbers: 3.9 comes before 3.10.
func compareNames(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		s, t := token(x), token(y)
		if s != t {
			if !isDigit(s[0]) || !isDigit(t[0]) {
				return cmp.Compare(s, t)
			}
			m, n := strings.TrimLeft(s, "0"), strings.TrimLeft(t, "0")
			if order := cmp.Or(cmp.Compare(len(m), len(n)), cmp.Compare(m, n)); order != 0 {
				return order
			}
		}
		x, y = x[len(s):], y[len(t):]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

// token is the number that a text begins with, or the byte.
func token(text string) string {
	n := 1
	for isDigit(text[0]) && n < len(text) && isDigit(text[n]) {
		n++
	}
	return text[:n]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
