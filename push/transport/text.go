package transport

import (
	"strings"

	"fleet/closure/run"
)

// maxErrorText bounds what a foreign text adds to an error, in bytes.
const maxErrorText = 1024

// cleanText makes one line that a terminal can be given out of what a server or a program
// said: escape sequences and control characters go, line ends become spaces, at most limit bytes stay.
func cleanText(s string, limit int) string {
	// What is cut away below never needs to be looked at; escape sequences are the reason for the factor.
	s = run.StripEscapes(s[:min(len(s), 8*limit)])
	s = strings.TrimSpace(strings.NewReplacer("\n", " ", "\t", " ").Replace(s))
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// cleanLines is cleanText for several lines; at most limit bytes stay.
func cleanLines(s string, limit int) string {
	var out []string
	left := limit
	for line := range strings.Lines(s) {
		if left <= 0 {
			break
		}
		if line = cleanText(line, left); line != "" {
			left -= len(line) + 1
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
