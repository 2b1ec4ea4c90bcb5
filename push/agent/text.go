package agent

import (
	"strings"

	"fleet/closure/run"
)

// maxLine bounds a line that is shown to a person, in bytes.
const maxLine = 500

// oneLine makes foreign text into one line without escape codes.
func oneLine(text string) string {
	return clip(strings.Join(strings.Fields(run.StripEscapes(text)), " "))
}

// clip bounds a line.
func clip(line string) string {
	if len(line) <= maxLine {
		return line
	}
	return strings.ToValidUTF8(line[:maxLine], "") + "…"
}

// lines returns the last n lines of foreign text, free of escape codes and bounded.
func lastLines(text string, n int) []string {
	all := strings.Split(strings.TrimRight(run.StripEscapes(text), "\n"), "\n")
	all = all[max(0, len(all)-n):]
	var out []string
	for _, line := range all {
		if line = strings.TrimRight(line, " \t\r"); line != "" {
			out = append(out, clip(line))
		}
	}
	return out
}
