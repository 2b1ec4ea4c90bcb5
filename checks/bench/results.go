package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
)

// results are what was measured, kept in a file from run to run: a run replaces the cells that it measures.
type results struct {
	// Machine says where and with what, a line each.
	Machine []string `json:"machine"`
	// Runs are by scenario, link and method.
	Runs map[string]map[string]map[string][]measured `json:"runs"`
	// Facts are by scenario.
	Facts map[string]facts `json:"facts"`
}

// facts are what a scenario has to move.
type facts struct {
	// Paths and NAR are what the target misses, in paths and in bytes.
	Paths int    `json:"paths"`
	NAR   uint64 `json:"nar"`
	// Zstd19 is what `zstd -19` makes of that, in bytes; 0 where it was not asked for.
	Zstd19 uint64 `json:"zstd19,omitempty"`
}

func loadResults(file string) (*results, error) {
	r := &results{}
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, r)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if r.Runs == nil {
		r.Runs = map[string]map[string]map[string][]measured{}
	}
	if r.Facts == nil {
		r.Facts = map[string]facts{}
	}
	return r, err
}

func (r *results) save(file string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("save results: %w", err)
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// of returns the runs of a method in a cell.
func (r *results) of(c cell, method string) []measured {
	return r.Runs[c.scenario.name][c.link.name][method]
}

func (r *results) add(c cell, method string, m measured) {
	byLink := r.Runs[c.scenario.name]
	if byLink == nil {
		byLink = map[string]map[string][]measured{}
		r.Runs[c.scenario.name] = byLink
	}
	byMethod := byLink[c.link.name]
	if byMethod == nil {
		byMethod = map[string][]measured{}
		byLink[c.link.name] = byMethod
	}
	byMethod[method] = append(byMethod[method], m)
}

// forget drops what an earlier run has measured in a cell, of the methods that are measured anew.
func (r *results) forget(c cell, methods []string) {
	for _, method := range methods {
		delete(r.Runs[c.scenario.name][c.link.name], method)
	}
}

// spread is the median of some numbers, and the least and the greatest of them.
type spread struct{ median, least, most float64 }

// spreadOf returns false where there is nothing to look at. The median of an even number of values is the lower one of the middle.
func spreadOf(runs []measured, value func(measured) float64) (spread, bool) {
	if len(runs) == 0 {
		return spread{}, false
	}
	values := make([]float64, len(runs))
	for i, m := range runs {
		values[i] = value(m)
	}
	slices.Sort(values)
	return spread{values[(len(values)-1)/2], values[0], values[len(values)-1]}, true
}

func seconds(m measured) float64   { return m.Seconds }
func wireBytes(m measured) float64 { return float64(m.Wire) }
func senderCPU(m measured) float64 { return m.SenderCPU }

// median is 0 where there is nothing to look at.
func (r *results) median(c cell, method string, value func(measured) float64) float64 {
	s, _ := spreadOf(r.of(c, method), value)
	return s.median
}

// best is the method with the least median of those that were measured in a cell.
func (r *results) best(c cell, methods []string, value func(measured) float64) (method string, median float64) {
	methods = slices.DeleteFunc(slices.Clone(methods), func(m string) bool { return len(r.of(c, m)) == 0 })
	if len(methods) == 0 {
		return "", 0
	}
	method = slices.MinFunc(methods, func(a, b string) int { return cmp.Compare(r.median(c, a, value), r.median(c, b, value)) })
	return method, r.median(c, method, value)
}
