package run

import (
	"strings"
	"unicode/utf8"
)

// StripEscapes makes foreign text harmless to print: it removes escape sequences (colours, titles, links, cursor
// movements), control characters other than newline and tab, and the marks that reverse the direction of text.
// A carriage return before a newline is dropped, any other becomes a space, and so do Unicode's line separators, so that one
// line stays one line. Bytes that are not UTF-8 become U+FFFD.
func StripEscapes(text string) string {
	if isPlain(text) {
		return text
	}
	var out strings.Builder
	out.Grow(len(text))
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if n := escapeLength(text[i:], r); n > 0 {
			i += n
			continue
		}
		switch {
		case r == '\r' && strings.HasPrefix(text[i+1:], "\n"):
		case r == '\r', r == '\u2028', r == '\u2029':
			out.WriteByte(' ')
		case isHarmless(r):
			out.WriteRune(r)
		}
		i += size
	}
	return out.String()
}

func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < ' ' && c != '\n' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}

func isHarmless(r rune) bool {
	switch {
	case r == '\n', r == '\t':
		return true
	case r < ' ', r >= 0x7f && r < 0xa0:
		return false
	case r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069', r == '\u200e', r == '\u200f', r == '\u061c':
		return false
	}
	return true
}

// escapeLength returns the length of the escape sequence (ECMA-48) that text begins with, or 0.
func escapeLength(text string, first rune) int {
	switch first {
	case 0x1b:
		if len(text) < 2 {
			return 1
		}
		switch c := text[1]; {
		case c == '[':
			return 2 + controlLength(text[2:])
		case strings.IndexByte("]PX^_", c) >= 0:
			return 2 + stringLength(text[2:])
		case c >= 0x20 && c <= 0x2f:
			return 1 + intermediateLength(text[1:])
		case c >= 0x30 && c <= 0x7e:
			return 2
		}
		return 1
	case 0x9b:
		return 2 + controlLength(text[2:])
	case 0x90, 0x98, 0x9d, 0x9e, 0x9f:
		return 2 + stringLength(text[2:])
	}
	return 0
}

// controlLength measures what follows a control sequence introducer: parameters, intermediates, one final byte.
func controlLength(text string) int {
	n := 0
	for n < len(text) && text[n] >= 0x20 && text[n] <= 0x3f {
		n++
	}
	if n < len(text) && text[n] >= 0x40 && text[n] <= 0x7e {
		n++
	}
	return n
}

func intermediateLength(text string) int {
	n := 0
	for n < len(text) && text[n] >= 0x20 && text[n] <= 0x2f {
		n++
	}
	if n < len(text) && text[n] >= 0x30 && text[n] <= 0x7e {
		n++
	}
	return n
}

// stringLength measures a control string up to its terminator. One that does not end on its line is taken to end
// with the line, so that it cannot hide all that follows.
func stringLength(text string) int {
	for n := 0; n < len(text); n++ {
		switch {
		case text[n] == '\n':
			return n
		case text[n] == '\a':
			return n + 1
		case strings.HasPrefix(text[n:], "\x1b\\"), strings.HasPrefix(text[n:], "\u009c"):
			return n + 2
		}
	}
	return len(text)
}
