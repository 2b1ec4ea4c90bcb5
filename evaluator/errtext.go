package evaluator

import (
	"regexp"
	"strings"
)

const (
	// maxSummary bounds the lines of an error that a person gets to see at once; the log has all.
	maxSummary     = 24
	maxSummaryLine = 400
)

// summarise takes the useful lines out of what Nix printed as errors: each error's own message, of which NixOS's failed assertions
// are the longest, and the first position in the user's own files. source is the store path of
// the snapshot, whose files are then named relative to it.
func summarise(errs []Message, source string) []string {
	var out []string
	seen := map[string]bool{}
	add := func(line string) {
		line = strings.TrimRight(line, " \t")
		if source != "" {
			line = strings.ReplaceAll(line, source+"/", "")
		}
		if line == "" || seen[line] || len(out) >= maxSummary {
			return
		}
		if len(line) > maxSummaryLine {
			line = strings.ToValidUTF8(line[:maxSummaryLine], "") + "…"
		}
		seen[line] = true
		out = append(out, line)
	}
	for _, m := range errs {
		for line := range strings.Lines(ownMessage(m)) {
			add(strings.TrimRight(line, "\n"))
		}
		if where := position(m.Text, source); where != "" {
			add("at " + where)
		}
	}
	if len(out) == 0 {
		return []string{"nix gave no reason"}
	}
	return out
}

// ownMessage is an error without its trace. In Nix's text the message comes last since 2.20, after the trace, and first before.
func ownMessage(m Message) string {
	if m.Raw != "" {
		return strings.TrimSpace(m.Raw)
	}
	text := m.Text
	if i := strings.LastIndex(text, "error: "); i >= 0 {
		text = text[i+len("error: "):]
	}
	if i := strings.Index(text, "\n\n"); i >= 0 {
		text = text[:i]
	}
	return strings.TrimSpace(text)
}

// isHint recognises what nix appends to an error to say how to get more.
func isHint(m Message) bool { return strings.HasPrefix(m.Text, "(use '--show-trace'") }

// position finds the place in the user's files where an error happened. Older versions of Nix print a trace from the inside outwards, and newer ones the other way
// round, with the error itself at the end; so the place that is nearest to the error's own text is meant.
func position(text, source string) string {
	find := regexp.MustCompile(`(?m)\bat (\S+?:\d+:\d+):?\s*$`)
	var inside []string
	for _, match := range find.FindAllStringSubmatch(text, -1) {
		if where := match[1]; source == "" && !strings.HasPrefix(where, "«") || source != "" && strings.HasPrefix(where, source+"/") {
			inside = append(inside, where)
		}
	}
	if len(inside) == 0 {
		return ""
	}
	if first := strings.TrimSpace(text); strings.HasPrefix(first, "error: ") {
		return inside[0]
	}
	return inside[len(inside)-1]
}
