package main

import (
	"fmt"
	"strings"
)

// render writes all that was measured, in Markdown.
func render(r *results) string {
	var b strings.Builder
	for _, line := range r.Machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	b.WriteString("### Goals\n\n" + goalTable(r) + "\n### All cells\n")
	for _, s := range scenarios {
		if len(r.Runs[s.name]) > 0 {
			b.WriteString("\n" + scenarioTable(r, s))
		}
	}
	return b.String()
}

// scenarioTable has a column for each link that was measured, and a row for each method.
func scenarioTable(r *results, s scenario) string {
	var cells []cell
	for _, l := range links {
		if c := (cell{s, l}); len(r.Runs[s.name][l.name]) > 0 {
			cells = append(cells, c)
		}
	}
	var b strings.Builder
	f := r.Facts[s.name]
	title := s.name
	if s.letter != "" {
		title = s.letter + ", " + s.name
	}
	fmt.Fprintf(&b, "#### %s\n\n%s: %d paths, %s of NARs.\n\n| |", title, upper(s.title), f.Paths, megabytes(float64(f.NAR)))
	for _, c := range cells {
		fmt.Fprintf(&b, " %s |", c.link.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(cells)) + "\n")
	row := func(name string, text func(cell) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, c := range cells {
			fmt.Fprintf(&b, " %s |", text(c))
		}
		b.WriteString("\n")
	}
	for _, method := range append(append([]string{}, transfers...), floors...) {
		if anyRuns(r, cells, method) {
			row(method, func(c cell) string { return runsText(r.of(c, method)) })
		}
	}
	row("best other ÷ fleet: time, bytes", func(c cell) string { return ratioText(r, c) })
	row("fleet: connecting, the push itself", func(c cell) string { return stepsText(r.of(c, fleet)) })
	row("fleet: CPU of sender, targets", func(c cell) string { return cpuText(r.of(c, fleet)) })
	row("fleet: memory of sender, targets", func(c cell) string { return memoryText(r.of(c, fleet)) })
	return b.String()
}

func anyRuns(r *results, cells []cell, method string) bool {
	for _, c := range cells {
		if len(r.of(c, method)) > 0 {
			return true
		}
	}
	return false
}

// runsText is the median time with the least and the greatest, and the median of bytes on the wire; runs in brackets where they are not five.
func runsText(runs []measured) string {
	t, ok := spreadOf(runs, seconds)
	if !ok {
		return "–"
	}
	text := fmt.Sprintf("**%.2f s** (%.2f–%.2f)", t.median, t.least, t.most)
	if w, _ := spreadOf(runs, wireBytes); w.median > 0 {
		text += " · " + megabytes(w.median)
	}
	if len(runs) != usualRuns {
		text += fmt.Sprintf(" [%d]", len(runs))
	}
	return text
}

func ratioText(r *results, c cell) string {
	method, best := r.best(c, transfers[1:], seconds)
	time, ok := ratio(best, r.median(c, fleet, seconds))
	_, least := r.best(c, transfers[1:], wireBytes)
	bytes, ok2 := ratio(least, r.median(c, fleet, wireBytes))
	if !ok || !ok2 {
		return "–"
	}
	return fmt.Sprintf("**%.2f**, %.2f (%s)", time, bytes, method)
}

// stepsText shows two of fleet's own times. What is left of the whole is starting, looking for private keys in what is pushed, and the sync.
func stepsText(runs []measured) string {
	connect, ok := spreadOf(runs, func(m measured) float64 { return m.Steps["connect"] })
	push, _ := spreadOf(runs, func(m measured) float64 { return m.Steps["push"] })
	if !ok || push.median == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f s, %.2f s", connect.median, push.median)
}

func cpuText(runs []measured) string {
	s, ok := spreadOf(runs, senderCPU)
	t, _ := spreadOf(runs, func(m measured) float64 { return m.TargetCPU })
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%.2f s, %.2f s", s.median, t.median)
}

func memoryText(runs []measured) string {
	s, ok := spreadOf(runs, func(m measured) float64 { return float64(m.SenderMemory) })
	t, _ := spreadOf(runs, func(m measured) float64 { return float64(m.TargetMemory) })
	if !ok {
		return "–"
	}
	return megabytes(s.median) + ", " + megabytes(t.median)
}

// megabytes prints bytes as MB (10⁶), or as kB below a tenth of one.
func megabytes(n float64) string {
	if n < 1e5 {
		return fmt.Sprintf("%.1f kB", n/1e3)
	}
	return fmt.Sprintf("%.1f MB", n/1e6)
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
