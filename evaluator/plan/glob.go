package plan

import (
	"strings"
	"unicode/utf8"
)

// glob matches a whole name: * any text, ? one character, [a-c] one of a set, [!a-c] or [^a-c] none of it. There is no
// escape, since names have no such characters. Its time is at most the product of both lengths.
func glob(pattern, name string) bool {
	retryPattern, retryName := -1, 0
	pi, ni := 0, 0
	for ni < len(name) || pi < len(pattern) {
		if pi < len(pattern) {
			if pattern[pi] == '*' {
				retryPattern, retryName = pi, ni
				pi++
				continue
			}
			if ni < len(name) {
				c, size := utf8.DecodeRuneInString(name[ni:])
				if used, ok := matchOne(pattern[pi:], c); ok {
					pi, ni = pi+used, ni+size
					continue
				}
			}
		}
		if retryPattern < 0 || retryName >= len(name) {
			return false
		}
		_, size := utf8.DecodeRuneInString(name[retryName:])
		retryName += size
		pi, ni = retryPattern+1, retryName
	}
	return true
}

// matchOne matches one character against the pattern's first element, and says how long that is.
func matchOne(pattern string, c rune) (used int, ok bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		if end := setEnd(pattern); end > 0 {
			return end, inSet(pattern[1:end-1], c)
		}
	}
	p, size := utf8.DecodeRuneInString(pattern)
	return size, p == c
}

// setEnd returns the length of the set at the start of pattern, -1 where it is not closed. A bracket that comes first in the
// set belongs to it, as in every shell.
func setEnd(pattern string) int {
	from := 1
	if len(pattern) > from && strings.ContainsRune("!^", rune(pattern[from])) {
		from++
	}
	if from+1 > len(pattern) {
		return -1
	}
	end := strings.IndexByte(pattern[from+1:], ']')
	if end < 0 {
		return -1
	}
	return from + 1 + end + 1
}

func inSet(set string, c rune) bool {
	negate := false
	if set[0] == '!' || set[0] == '^' {
		negate, set = true, set[1:]
	}
	found := false
	for runes := []rune(set); len(runes) > 0; {
		if len(runes) > 2 && runes[1] == '-' {
			found = found || runes[0] <= c && c <= runes[2]
			runes = runes[3:]
			continue
		}
		found = found || runes[0] == c
		runes = runes[1:]
	}
	return found != negate
}
