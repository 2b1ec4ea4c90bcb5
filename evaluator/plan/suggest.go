package plan

import (
	"slices"
	"strings"
)

// nearest returns at most three of known that look like name, best first.
func nearest(name string, known []string) []string {
	const most = 3
	type candidate struct {
		name     string
		distance int
	}
	if len(name) > maxName+1 {
		return nil
	}
	var near []candidate
	for _, k := range known {
		limit := max(1, min(len(name), len(k))/3)
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d <= limit {
			near = append(near, candidate{k, d})
		}
	}
	slices.SortFunc(near, func(a, b candidate) int {
		if a.distance != b.distance {
			return a.distance - b.distance
		}
		return strings.Compare(a.name, b.name)
	})
	out := make([]string, 0, most)
	for _, c := range near[:min(len(near), most)] {
		out = append(out, c.name)
	}
	return out
}

// didYouMean is a clause with the nearest names, or nothing.
func didYouMean(name string, known []string, prefix string) string {
	near := nearest(name, known)
	if len(near) == 0 {
		return ""
	}
	for i := range near {
		near[i] = prefix + near[i]
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}

// distance counts the insertions, deletions, replacements and swaps of neighbours between two names.
func distance(a, b string) int {
	before := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
