//go:build cluster

package cluster

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet/checks/section"
)

// updateReliability writes the results into docs/reliability.md.
var updateReliability = flag.Bool("update-reliability", false, "write the tables of docs/reliability.md anew")

const reliability = "../../docs/reliability.md"

// finding is how one trial has ended.
type finding struct {
	fault  string
	ending ending
	// toEnd is from the fault to the end, verified what of it was spent after the old system's activation, or after the reboot.
	toEnd, verified time.Duration
}

// resultTable collects findings of all tests.
type resultTable struct {
	mu       sync.Mutex
	findings []finding
	order    []string
}

var results resultTable

func (r *resultTable) add(f finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.order, f.fault) {
		r.order = append(r.order, f.fault)
	}
	r.findings = append(r.findings, f)
}

// String is the table, a line a fault.
func (r *resultTable) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	b.WriteString("| fault | times | ended as | seconds from the fault to the end: median, most | of them after the old system's activation or the reboot: most |\n|---|---|---|---|---|\n")
	order := slices.Clone(r.order)
	slices.Sort(order)
	for _, fault := range order {
		ends := map[ending]int{}
		var all []time.Duration
		var verified time.Duration
		for _, f := range r.findings {
			if f.fault != fault {
				continue
			}
			ends[f.ending]++
			all = append(all, f.toEnd)
			verified = max(verified, f.verified)
		}
		slices.Sort(all)
		fmt.Fprintf(&b, "| %s | %d | %s | %s, %s | %s |\n", fault, len(all), endings(ends, len(all)), seconds(all[len(all)/2]), seconds(all[len(all)-1]), seconds(verified))
	}
	return b.String()
}

func endings(ends map[ending]int, all int) string {
	var parts []string
	for _, e := range []ending{endNew, endUntilBoot, endOld, endNothing, endStaged, endLeft, endBroken} {
		switch {
		case ends[e] == all:
			return string(e)
		case ends[e] > 0:
			parts = append(parts, fmt.Sprintf("%d × %s", ends[e], e))
		}
	}
	return strings.Join(parts, "; ")
}

func seconds(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", d.Seconds())
}

// report prints what was found, and keeps it where that is asked for.
func (r *resultTable) report(w io.Writer) error {
	if len(r.findings) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n", r)
	if !*updateReliability {
		return nil
	}
	return section.Replace(reliability, "faults", r.String())
}
