// Bench measures pushes to hosts of the testbed, fleet's beside those of Nix's own tools, and writes docs/benchmarks.md, which says
// how it is done and what came of it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fleet/checks/bench/workload"
	"fleet/checks/section"
	"fleet/checks/testbed/lab"
)

// usualRuns is how often each method is measured in a cell where nothing else is said.
const usualRuns = 5

const (
	resultsFile = "checks/bench/results.json"
	tableFile   = "docs/benchmarks.md"
	tableName   = "benchmarks"
)

type options struct {
	cells, methods, labName, old, new, suite string
	runs                                     int
	longest                                  time.Duration
	update, list                             bool
}

func main() {
	if lab.Supervise() {
		return
	}
	var o options
	flag.StringVar(&o.cells, "cells", goalCells, "what to measure: SCENARIO:LINK, separated by commas; * stands for any")
	flag.StringVar(&o.methods, "methods", "", "measure only methods whose names contain one of these, separated by commas")
	flag.IntVar(&o.runs, "runs", usualRuns, "measure each method so often in each cell")
	flag.DurationVar(&o.longest, "longest", 3*time.Minute, "do not repeat a method in a cell where one run took longer")
	flag.StringVar(&o.labName, "lab", cmp.Or(os.Getenv("FLEET_LAB"), "bench"), "the lab's name")
	flag.StringVar(&o.old, "old", "trixie", "the Debian suite of the packages that are pushed")
	flag.StringVar(&o.new, "new", "forky", "the Debian suite that they are upgraded to")
	flag.StringVar(&o.suite, "suite", "trixie", "the Debian suite of the hosts, which decides their Nix")
	flag.BoolVar(&o.update, "update", false, "keep the results in "+resultsFile+" and "+tableFile)
	flag.BoolVar(&o.list, "list", false, "print the cells and measure nothing")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func say(line string) { fmt.Fprintln(os.Stderr, "bench:", line) }

func run(ctx context.Context, o options) (err error) {
	cells, err := parseCells(o.cells)
	if err != nil || o.list {
		for _, c := range cells {
			fmt.Println(c, strings.Join(c.methods(), "; "))
		}
		return err
	}
	l, err := lab.Open(o.labName, ".")
	if err != nil {
		return err
	}
	release, err := l.Claim()
	if err != nil {
		return err
	}
	defer release()
	l.RemoveOnInterrupt()
	if err := l.Down(ctx); err != nil { // what an earlier run left
		return err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	dir := filepath.Join(lab.StateDir(), "bench")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f := &field{lab: l, suite: o.suite, say: say}
	if err := f.up(ctx, &workload.Maker{Dir: dir, Old: o.old, New: o.new, Say: say}, cells); err != nil {
		return err
	}
	return measureAll(ctx, f, o, cells)
}

// measureAll goes through all cells and methods once, then once more, and so on: what disturbs the machine for a while disturbs all of them.
func measureAll(ctx context.Context, f *field, o options, cells []cell) error {
	file := resultsFile
	if !o.update {
		file = filepath.Join(lab.StateDir(), "bench", "results.json")
	}
	r, err := loadResults(file)
	if err != nil {
		return err
	}
	for _, c := range cells {
		r.forget(c, o.chosen(c))
	}
	if r.Machine, err = f.machine(ctx); err != nil {
		return err
	}
	if err := f.facts(ctx, r, cells); err != nil {
		return err
	}
	failed := rounds(ctx, f, o, cells, r, file)
	fmt.Println(render(r))
	if o.update {
		return errors.Join(failed, section.Replace(tableFile, tableName, "\n"+render(r)+"\n"))
	}
	return failed
}

// rounds keeps the results after each run. A run that fails has no result, and stops no other.
func rounds(ctx context.Context, f *field, o options, cells []cell, r *results, file string) error {
	var failed []error
	for round := range o.runs {
		for _, c := range cells {
			for _, method := range o.chosen(c) {
				if round > 0 && r.median(c, method, seconds) > o.longest.Seconds() {
					continue
				}
				if err := f.measureOne(ctx, r, c, method); err != nil {
					say(err.Error())
					failed = append(failed, err)
				}
				if err := r.save(file); err != nil {
					return errors.Join(append(failed, err)...)
				}
			}
		}
	}
	return errors.Join(failed...)
}

// measureOne measures once. Where connections are to break at half of the bytes, it has to know how many there are.
func (f *field) measureOne(ctx context.Context, r *results, c cell, method string) error {
	var half uint64
	if c.scenario.drop {
		whole := at("fresh", shortLink(c.link.name))
		if len(r.of(whole, method)) == 0 {
			if err := f.measureOne(ctx, r, whole, method); err != nil {
				return err
			}
		}
		half = uint64(r.median(whole, method, wireBytes) / 2)
	}
	m, err := f.once(ctx, c, method, half)
	if err != nil {
		return err
	}
	r.add(c, method, m)
	say(fmt.Sprintf("%-16s %-36s %7.2f s (sync %.2f) %9s  CPU %.2f + %.2f s  memory %s + %s %v", c, method, m.Seconds, m.Sync, megabytes(float64(m.Wire)),
		m.SenderCPU, m.TargetCPU, megabytes(float64(m.SenderMemory)), megabytes(float64(m.TargetMemory)), m.Steps))
	return nil
}

// chosen are the methods of a cell that the options leave.
func (o options) chosen(c cell) []string {
	if o.methods == "" {
		return c.methods()
	}
	return slices.DeleteFunc(slices.Clone(c.methods()), func(method string) bool {
		return !slices.ContainsFunc(strings.Split(o.methods, ","), func(part string) bool { return strings.Contains(method, part) })
	})
}
