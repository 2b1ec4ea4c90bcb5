package main

import (
	"fmt"
	"slices"
	"strings"
)

// goal is one number to reach.
type goal struct {
	text string
	// value returns false where what it needs was not measured.
	value func(*results) (float64, bool)
	// limit is the least, or with atMost the greatest value that reaches the goal.
	limit  float64
	atMost bool
	unit   string
}

var goals = [...]goal{
	{"fresh, unlimited: as fast as the best of Nix's own tools, times", faster("fresh", "unlimited", nixTools), 1.4, false, "×"},
	{"fresh, 100 Mbit/s: as fast as the best of Nix's own tools, times", faster("fresh", "100m", nixTools), 3, false, "×"},
	{"fresh, 100 Mbit/s: as fast as export, zstd, import, times", faster("fresh", "100m", []string{pipe}), 1.7, false, "×"},
	{"fresh: bytes on the wire, of the NARs", share("fresh", "100m"), 33, true, " %"},
	{"mass rebuild: bytes on the wire, of the NARs", share("rebuild", "100m"), 1, true, " %"},
	{"mass rebuild, 100 Mbit/s: time, of an import of the same paths on the target", overFloor, 1.3, true, "×"},
	{"mass rebuild, 10 Mbit/s: as fast as the best of Nix's own tools, times", faster("rebuild", "10m", nixTools), 15, false, "×"},
	{"patch release: bytes on the wire, of the NARs", share("patch", "100m"), 5, true, " %"},
	{"upgrade, 10 Mbit/s, where bytes decide: bytes on the wire, of what zstd -19 makes of the NARs", ofZstd19, 75, true, " %"},
	{"no-op, 150 ms: round trips of the push itself", roundTrips, 2, true, ""},
	{fmt.Sprintf("%d hosts: the sender's CPU time, of that for one", manyHosts), manyCPU, 2, true, "×"},
	{"drop at 50 %: bytes sent twice", sentTwice, 5, true, " %"},
}

// at is the cell of a scenario and a link, which exist.
func at(name, short string) cell {
	s := slices.IndexFunc(scenarios[:], func(s scenario) bool { return s.name == name })
	return cell{scenarios[s], links[slices.Index(linkNames[:], short)]}
}

func ratio(a, b float64) (float64, bool) {
	if a == 0 || b == 0 {
		return 0, false
	}
	return a / b, true
}

func faster(name, short string, others []string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		c := at(name, short)
		_, best := r.best(c, others, seconds)
		return ratio(best, r.median(c, fleet, seconds))
	}
}

func percent(a, b float64) (float64, bool) {
	v, ok := ratio(a, b)
	return 100 * v, ok
}

func share(name, short string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return percent(r.median(at(name, short), fleet, wireBytes), float64(r.Facts[name].NAR))
	}
}

func overFloor(r *results) (float64, bool) {
	return ratio(r.median(at("rebuild", "100m"), fleet, seconds), r.median(at("rebuild", "unlimited"), floor, seconds))
}

// ofZstd19 looks at a slow link: over a faster one, a push takes the level that is over first, not the one that sends least.
func ofZstd19(r *results) (float64, bool) {
	return percent(r.median(at("upgrade", "10m"), fleet, wireBytes), float64(r.Facts["upgrade"].Zstd19))
}

// roundTrips counts by time: the step "push" begins when the session stands.
func roundTrips(r *results) (float64, bool) {
	c := at("noop", "10m")
	return ratio(r.median(c, fleet, func(m measured) float64 { return m.Steps["push"] }), c.link.RTT.Seconds())
}

func manyCPU(r *results) (float64, bool) {
	return ratio(r.median(at("many", "unlimited"), fleet, senderCPU), r.median(at("fresh", "unlimited"), fleet, senderCPU))
}

func sentTwice(r *results) (float64, bool) {
	v, ok := percent(r.median(at("drop", "100m"), fleet, wireBytes), r.median(at("fresh", "100m"), fleet, wireBytes))
	return v - 100, ok
}

// goalTable is a row for each goal, in Markdown.
func goalTable(r *results) string {
	var b strings.Builder
	b.WriteString("| goal | wanted | measured | |\n|---|---:|---:|---|\n")
	for _, g := range goals {
		sign, got, verdict := "≥", "–", ""
		if g.atMost {
			sign = "≤"
		}
		if v, ok := g.value(r); ok {
			got, verdict = fmt.Sprintf("%.2f%s", v, g.unit), "missed"
			if (v <= g.limit) == g.atMost || v == g.limit {
				verdict = "reached"
			}
		}
		fmt.Fprintf(&b, "| %s | %s %g%s | %s | %s |\n", g.text, sign, g.limit, g.unit, got, verdict)
	}
	return b.String()
}
