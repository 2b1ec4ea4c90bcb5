package deploy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"fleet/evaluator"
)

// batcher gathers hosts that are ready to be evaluated, so that a backend can share work between them, and hands each its own
// result as soon as it is known. A batch leaves when no further host can come, or a window after its first host.
type batcher struct {
	records func(hosts []string, each func(evaluator.RecordResult)) error
	window  time.Duration

	mu sync.Mutex
	// expected is how many hosts may still come.
	expected int
	waiting  map[string]chan evaluator.RecordResult
	timer    *time.Timer
}

func newBatcher(records func([]string, func(evaluator.RecordResult)) error, window time.Duration, expected int) *batcher {
	return &batcher{records: records, window: window, expected: expected, waiting: map[string]chan evaluator.RecordResult{}}
}

// record evaluates a host with whichever others are ready. Each host calls either record or leave, once. The error is why there is no
// result; that of the evaluation is in the result.
func (b *batcher) record(ctx context.Context, host string) (evaluator.RecordResult, error) {
	result := make(chan evaluator.RecordResult, 1)
	b.mu.Lock()
	b.waiting[host] = result
	if b.timer == nil {
		b.timer = time.AfterFunc(b.window, b.flush)
	}
	b.mu.Unlock()
	b.leave()
	select {
	case r := <-result:
		return r, nil
	case <-ctx.Done():
		return evaluator.RecordResult{}, context.Cause(ctx)
	}
}

// leave says that a host will not come any more.
func (b *batcher) leave() {
	b.mu.Lock()
	b.expected--
	last := b.expected == 0
	b.mu.Unlock()
	if last {
		b.flush()
	}
}

// flush sends what waits on its way.
func (b *batcher) flush() {
	b.mu.Lock()
	batch := b.waiting
	b.waiting = map[string]chan evaluator.RecordResult{}
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	b.mu.Unlock()
	if len(batch) > 0 {
		go b.evaluate(batch)
	}
}

func (b *batcher) evaluate(batch map[string]chan evaluator.RecordResult) {
	hosts := make([]string, 0, len(batch))
	for host := range batch {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	var mu sync.Mutex
	answer := func(r evaluator.RecordResult) {
		mu.Lock()
		defer mu.Unlock()
		if waiting, ok := batch[r.Host]; ok {
			delete(batch, r.Host)
			waiting <- r
		}
	}
	err := b.records(hosts, answer)
	for _, host := range hosts {
		failed := err
		if failed == nil {
			failed = fmt.Errorf("evaluate %q: the backend gave no record", host)
		}
		answer(evaluator.RecordResult{Host: host, Err: failed})
	}
}

// evaluateWith asks the backend for the records of a batch, as a snapshot has them.
func (r *deployment) evaluateWith(snapshot evaluator.Snapshot) func([]string, func(evaluator.RecordResult)) error {
	return func(hosts []string, each func(evaluator.RecordResult)) error {
		return r.Backend.Records(r.work, snapshot, r.Plan, hosts, each)
	}
}
