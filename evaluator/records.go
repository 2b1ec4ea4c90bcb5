package evaluator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"fleet/evaluator/plan"
)

const (
	// maxChunk bounds the jobs that one process is given.
	maxChunk = 32
	// maxExpression bounds the expression of a chunk, in bytes, far below what one argument of a process may have.
	maxExpression = 64 << 10
)

// Records evaluates hosts in a pool of processes that all calls share: what they declare first, then their systems, unless what they
// declare says that secrets are missing.
//
// A process is given several hosts, one after the other, because reading nixpkgs is a large part of a single host's
// evaluation; chunks get smaller towards the end, so that all workers end together. It tells each host's result as soon as it has it.
// An error ends the process at the host that has it: that host is reported, and a new process goes on with the next one.
func (n *Nix) Records(ctx context.Context, s Snapshot, p *plan.Plan, hosts []string, each func(RecordResult)) error {
	return n.records(ctx, s, p, hosts, `{ inherit first; rest = if !(first ? specs) || first.specs.missing == [ ] then { inherit (record) system; } else { }; }`, func(r RecordResult) {
		if r.Err == nil && r.Record.System == nil && r.MissingSecrets() == nil {
			r.Err = fmt.Errorf("evaluate host %q: it has no system", r.Host)
		}
		each(r)
	})
}

// Specs is Records without systems.
func (n *Nix) Specs(ctx context.Context, s Snapshot, p *plan.Plan, hosts []string, each func(RecordResult)) error {
	return n.records(ctx, s, p, hosts, `{ inherit first; rest = { }; }`, each)
}

// records asks for parts of records. answer is a Nix expression with record and first, its specs where it has any, in scope.
func (n *Nix) records(ctx context.Context, s Snapshot, p *plan.Plan, hosts []string, answer string, each func(RecordResult)) error {
	jobs := make([]job, 0, len(hosts))
	for _, name := range hosts {
		path, err := recordPath(p, name)
		if err != nil {
			each(RecordResult{Host: name, Err: err})
			continue
		}
		jobs = append(jobs, job{host: name, ask: `fleets: let record = ` + attribute(path) +
			`; first = if record ? specs then { inherit (record) specs; } else { }; in ` + answer})
	}
	return n.do(ctx, s, jobs, func(r jobResult) { each(RecordResult{Host: r.job.host, Record: r.record, Err: r.err}) })
}

// recordPath is where a host's record is, below fleetConfigurations.
func recordPath(p *plan.Plan, name string) ([]string, error) {
	host, ok := p.Hosts[name]
	if !ok || len(host.Record) < 2 || host.Record[0] != "fleetConfigurations" {
		return nil, fmt.Errorf("evaluate host %q: the plan does not say where its record is", name)
	}
	return host.Record[1:], nil
}

// attribute is a Nix expression for what lies at a path below fleets.
func attribute(path []string) string {
	expression := "fleets"
	for _, name := range path {
		expression += "." + nixString(name)
	}
	return expression
}

// do has all jobs done in the pool. The error is about the whole batch.
func (n *Nix) do(ctx context.Context, s Snapshot, jobs []job, each func(jobResult)) error {
	if s.Ref == "" {
		return errors.New("evaluate hosts: the snapshot is not one of this backend")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for len(jobs) > 0 {
		if err := n.workers.Acquire(ctx, 1); err != nil {
			break
		}
		size := chunkSize(jobs, n.pool.workers)
		chunk := jobs[:size]
		jobs = jobs[size:]
		group.Go(func() {
			defer n.workers.Release(1)
			if err := n.chunk(ctx, s, chunk, each); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// chunkSize takes an equal share of what is left, so that chunks shrink (guided self-scheduling).
func chunkSize(jobs []job, workers int) int {
	size := min(maxChunk, (len(jobs)+workers-1)/workers)
	length := 0
	for i, j := range jobs[:size] {
		if length += len(j.ask); length > maxExpression {
			return max(1, i)
		}
	}
	return size
}

// chunk does jobs one after the other, in as many processes as it takes. An error is one of the whole batch.
func (n *Nix) chunk(ctx context.Context, s Snapshot, jobs []job, each func(jobResult)) error {
	for len(jobs) > 0 {
		w := &worker{nix: n, snapshot: s, jobs: jobs, each: each, source: n.sourceOf(s), current: -1}
		rest, err := w.run(ctx)
		if err != nil {
			return err
		}
		jobs = rest
	}
	return nil
}

// job is one thing to evaluate.
type job struct {
	// host is whose it is; empty for what is the fleet's.
	host string
	// ask is a Nix function of fleetConfigurations. It returns a set of two values, first and rest, which are evaluated in this
	// order; what first is, is known also where rest fails.
	ask string
	// names are the generators that are asked for, nil where the job is about a record.
	names []string
	// again is set where the job was done already, but its derivation got lost.
	again bool
}

// jobResult is what a job gave, or why it gave less.
type jobResult struct {
	job      job
	record   plan.Record
	programs map[string]Program
	err      error
}

// result decodes what a job gave.
func (j job) result(first, rest []byte) jobResult {
	if j.names != nil {
		programs, err := decodePrograms(j.names, rest)
		return jobResult{job: j, programs: programs, err: err}
	}
	r := j.failed(first, nil)
	if r.err != nil {
		return r
	}
	last, err := plan.DecodeRecord(rest)
	if err != nil {
		r.err = fmt.Errorf("evaluate host %q: %w", j.host, err)
	}
	r.record.System = last.System
	return r
}

// failed keeps what is known of a job that has failed with err: its first answer.
func (j job) failed(first []byte, err error) jobResult {
	r := jobResult{job: j, err: err}
	if j.names != nil || first == nil {
		return r
	}
	record, decodeErr := plan.DecodeRecord(first)
	if decodeErr != nil {
		r.err = errors.Join(err, fmt.Errorf("evaluate host %q: %w", j.host, decodeErr))
	}
	r.record.Specs = record.Specs
	return r
}

// missing says which derivation of the result is not in the store.
func (r jobResult) missing() error {
	if r.err != nil {
		return nil
	}
	if r.record.System != nil {
		if _, err := os.Lstat(r.record.System.DrvPath); err != nil {
			return err
		}
	}
	for _, p := range r.programs {
		if _, err := os.Lstat(p.DrvPath); err != nil {
			return err
		}
	}
	return nil
}
