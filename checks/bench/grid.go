package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"fleet/checks/bench/workload"
	"fleet/checks/testbed/lab"
)

// link is what the target is reached over.
type link struct {
	name string
	lab.Link
}

var links = [...]link{
	{name: "unlimited"},
	{"1 Gbit/s, 1 ms", lab.Link{Rate: 1e9, RTT: time.Millisecond}},
	{"100 Mbit/s, 20 ms", lab.Link{Rate: 100e6, RTT: 20 * time.Millisecond}},
	{"20 Mbit/s, 50 ms", lab.Link{Rate: 20e6, RTT: 50 * time.Millisecond}},
	{"10 Mbit/s, 150 ms", lab.Link{Rate: 10e6, RTT: 150 * time.Millisecond}},
}

// The links by the names that cells on the command line have.
var linkNames = [len(links)]string{"unlimited", "1g", "100m", "20m", "10m"}

// What the target holds before a run.
const (
	emptyStore = "empty"
	baseStore  = "base"
)

// scenario is one thing to push, and how.
type scenario struct {
	// letter is the case's name in the issue that set the goals; some have none.
	name, letter, title string
	// from is what the target holds before.
	from string
	// closure is what is pushed.
	closure string
	// drop breaks all connections to the target once, after half of the bytes.
	drop bool
	// bounds are what the target may use.
	bounds lab.Bounds
	// hosts is how many are pushed to at a time, if more than one.
	hosts int
	// methods leaves out all others; nil leaves out none.
	methods []string
}

// manyHosts is how many hosts a push to many goes to.
const manyHosts = 16

var small = lab.Bounds{CPUs: 1, Memory: 512 << 20}

var scenarios = [...]scenario{
	{name: "fresh", letter: "A", title: "a whole system to an empty store", from: emptyStore, closure: workload.Base},
	{name: "rebuild", letter: "B", title: "mass rebuild: the same contents under other hashes", from: baseStore, closure: workload.Rebuild},
	{name: "patch", letter: "C", title: "patch release of one package in eight", from: baseStore, closure: workload.Patch},
	{name: "upgrade", title: "the packages of the next Debian release", from: baseStore, closure: workload.Upgrade},
	{name: "noop", letter: "D", title: "nothing is missing", from: baseStore, closure: workload.Base},
	{name: "tiny", letter: "E", title: "1,500 tiny paths to an empty store", from: emptyStore, closure: workload.Tiny},
	{name: "large", letter: "F", title: "one path of 500 MB to an empty store", from: emptyStore, closure: workload.Large},
	{name: "drop", letter: "G", title: "case A, and all connections break once half of it is sent; what ends with an error is started again", from: emptyStore, closure: workload.Base, drop: true, methods: transfers},
	{name: "small", letter: "H", title: "case A to a target with 1 CPU and 512 MB", from: emptyStore, closure: workload.Base, bounds: small, methods: transfers},
	{name: "small-rebuild", letter: "H", title: "case B to a target with 1 CPU and 512 MB", from: baseStore, closure: workload.Rebuild, bounds: small, methods: transfers},
	{name: "many", title: fmt.Sprintf("case A to %d hosts at a time", manyHosts), from: emptyStore, closure: workload.Base, hosts: manyHosts, methods: []string{fleet, sshNG, sshNGZip}},
}

// cell is a scenario over a link.
type cell struct {
	scenario scenario
	link     link
}

func (c cell) String() string { return c.scenario.name + ":" + shortLink(c.link.name) }

func shortLink(name string) string {
	return linkNames[slices.IndexFunc(links[:], func(l link) bool { return l.name == name })]
}

// methods are those that the cell is measured with. An import on the target has no part of the link, and is measured beside one of them alone.
func (c cell) methods() []string {
	if c.scenario.methods != nil {
		return c.scenario.methods
	}
	if c.link.name == links[0].name && c.scenario.name != "noop" {
		return append(slices.Clone(transfers), floors...)
	}
	return transfers
}

// goalCells are the cells that a goal names.
const goalCells = "fresh:unlimited,fresh:100m,rebuild:unlimited,rebuild:100m,rebuild:10m,patch:100m,upgrade:10m,noop:10m,drop:100m,many:unlimited"

// parseCells reads cells as SCENARIO:LINK, separated by commas; * stands for any.
func parseCells(text string) ([]cell, error) {
	var cells []cell
	for _, item := range strings.Split(text, ",") {
		name, short, _ := strings.Cut(item, ":")
		before := len(cells)
		for _, s := range scenarios {
			for i, l := range links {
				if (name == "*" || name == s.name) && (short == "*" || short == linkNames[i]) {
					cells = append(cells, cell{s, l})
				}
			}
		}
		if len(cells) == before {
			return nil, fmt.Errorf("no cell is called %q: want SCENARIO:LINK, for example fresh:100m", item)
		}
	}
	return cells, nil
}
