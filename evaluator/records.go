package evaluator

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"fleet/evaluator/plan"
)

// maxChunk bounds the hosts that one process is given.
const maxChunk = 32

// Records evaluates the systems of hosts in a pool of processes that all calls share.
//
// A process is given several hosts, one after the other, because reading nixpkgs is a large part of a single host's
// evaluation; chunks get smaller towards the end, so that all workers end together. It tells each host's result as soon as it has it.
// An error ends the process at the host that has it: that host is reported, and a new process goes on with the next one.
func (n *Nix) Records(ctx context.Context, s Snapshot, p *plan.Plan, hosts []string, each func(RecordResult)) error {
	if s.Ref == "" {
		return errors.New("evaluate hosts: the snapshot is not one of this backend")
	}
	jobs := make([]job, 0, len(hosts))
	for _, name := range hosts {
		host, ok := p.Hosts[name]
		if !ok || len(host.Record) < 2 || host.Record[0] != "fleetConfigurations" {
			each(RecordResult{Host: name, Err: fmt.Errorf("evaluate host %q: the plan does not say where its record is", name)})
			continue
		}
		jobs = append(jobs, job{host: name, path: host.Record[1:]})
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for len(jobs) > 0 {
		if err := n.workers.Acquire(ctx, 1); err != nil {
			break
		}
		size := chunkSize(len(jobs), n.pool.workers)
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
func chunkSize(left, workers int) int {
	return min(maxChunk, (left+workers-1)/workers)
}

// chunk evaluates hosts one after the other, in as many processes as it takes. An error is one of the whole batch.
func (n *Nix) chunk(ctx context.Context, s Snapshot, jobs []job, each func(RecordResult)) error {
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

// job is a host and where its record is, below fleetConfigurations.
type job struct {
	host string
	path []string
	// again is set where the host was evaluated already, but its derivation got lost.
	again bool
}
