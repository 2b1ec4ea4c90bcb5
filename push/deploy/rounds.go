package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
	"fleet/secretsgen/install"
)

// rounds gathers the hosts that miss secrets, so that these are made for all of them at once. A round begins when no further host can join
// it: all others have what they need, or have failed.
type rounds struct {
	ensure func(needs []Need) (evaluator.Snapshot, error)
	// again evaluates the hosts of a round with its snapshot.
	again func(snapshot evaluator.Snapshot, hosts int) *batcher

	mu sync.Mutex
	// active is how many hosts may still join a round.
	active int
	next   *round
}

// round is one call of Ensure, for the hosts whose needs it has.
type round struct {
	needs []Need
	// done is closed once what follows is set.
	done    chan struct{}
	records *batcher
	// partly are the causes for what was not made, err is one for all.
	partly *EnsureError
	err    error
}

func newRounds(active int, ensure func([]Need) (evaluator.Snapshot, error), again func(evaluator.Snapshot, int) *batcher) *rounds {
	return &rounds{active: active, ensure: ensure, again: again}
}

// join waits for the round that makes what a host misses. The host is evaluated again with the round's records, or leaves.
func (r *rounds) join(ctx context.Context, need Need) (*round, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	mine.needs = append(mine.needs, need)
	r.begin()
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// leave says that a host will join no further round. Each host calls it once.
func (r *rounds) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	r.begin()
}

// begin starts the next round if it is complete; mu is held.
func (r *rounds) begin() {
	if r.next == nil || len(r.next.needs) < r.active {
		return
	}
	go r.run(r.next)
	r.next = nil
}

func (r *rounds) run(now *round) {
	defer close(now.done)
	slices.SortFunc(now.needs, func(a, b Need) int { return strings.Compare(a.Host, b.Host) })
	snapshot, err := r.ensure(now.needs)
	partly, ok := errors.AsType[*EnsureError](err)
	if ok {
		err = nil
	} else {
		partly = &EnsureError{}
	}
	now.partly, now.err = partly, err
	now.records = r.again(snapshot, len(now.needs))
}

// ensure makes what hosts miss.
func (r *deployment) ensure(needs []Need) (evaluator.Snapshot, error) {
	return r.Secrets.Ensure(r.work, needs)
}

// again is a batcher for hosts that all come at once.
func (r *deployment) again(snapshot evaluator.Snapshot, hosts int) *batcher {
	return newBatcher(r.evaluateWith(snapshot), r.limits.BatchWindow, hosts)
}

// maxRounds bounds how often secrets are made for one host: its own ones once, then public parts of others, one name of a secret after the other.
const maxRounds = 8

// ready evaluates the host, and makes what it misses as often as that leads to anything.
func (h *hostRun) ready() error {
	if err := h.do(plan.StepEvaluate, h.evaluate); err != nil {
		return err
	}
	tried := map[string]bool{}
	for n := 0; !h.need.empty(); n++ {
		if err := h.mayMake(tried, n); err != nil {
			h.step = plan.StepSecrets
			return err
		}
		if err := h.do(plan.StepSecrets, h.makeSecrets); err != nil {
			return err
		}
		if err := h.do(plan.StepEvaluate, h.evaluate); err != nil {
			return err
		}
	}
	h.settled = true
	h.secrets.leave()
	return nil
}

// mayMake is the error where nothing is made, or where it was tried already in round number n.
func (h *hostRun) mayMake(tried map[string]bool, n int) error {
	err := &MissingSecretsError{Host: h.name, Need: h.need, Causes: h.causes.Failed, Err: h.causes.Hosts[h.name]}
	if h.Secrets == nil {
		err.Reason = h.NoSecrets
		return err
	}
	known := true
	for _, id := range h.need.ids() {
		known = known && tried[id]
		tried[id] = true
	}
	if known || n == maxRounds {
		return err
	}
	return nil
}

// makeSecrets waits until what the host misses was made, as far as it could be. The host is evaluated again in any case, and tells what is left.
func (h *hostRun) makeSecrets() error {
	done, err := h.secrets.join(h.work, h.need)
	if err != nil {
		return err
	}
	if done.err != nil {
		return h.notMade(done.err)
	}
	h.records, h.recorded, h.causes = done.records, false, *done.partly
	return nil
}

// notMade tells an error that is about all secrets from the end of the run.
func (h *hostRun) notMade(err error) error {
	if cause := context.Cause(h.work); cause != nil {
		return cause
	}
	return &MissingSecretsError{Host: h.name, Need: h.need, Err: err}
}

// takeNeed finds out what a result says to be missing. The error is that of the evaluation, where it is about something else.
func (h *hostRun) takeNeed(result evaluator.RecordResult) error {
	h.need = Need{Host: h.name, Specs: result.Record.Specs}
	var public *evaluator.MissingPublicError
	var missing *evaluator.MissingSecretsError
	switch {
	case errors.As(result.Err, &public):
		h.need.Public = public.Refs
	case errors.As(result.MissingSecrets(), &missing):
		h.need.Missing = missing.Missing
	default:
		return result.Err
	}
	return nil
}

// preflight asks the host whether it could install the secrets of what it is about to run. It costs one round trip.
func (h *hostRun) preflight() (*PreflightError, error) {
	request := proto.SecretsPreflightRequest{Toplevel: h.want.toplevel, Specialisation: h.specialisation()}
	var report install.Report
	err := h.session.Secrets(h.work, push.SecretsRequest{Method: proto.MethodSecretsPreflight, Params: request, Result: &report})
	if answer, ok := errors.AsType[*push.AgentError](err); ok {
		err = &HostSecretsError{Host: h.name, What: "check secrets", Answer: answer}
	}
	if err != nil || len(report.Failed) == 0 {
		return nil, err
	}
	return &PreflightError{Host: h.name, Failed: cleanFailures(report.Failed)}, nil
}

// maxFailures bounds what a host's error lists.
const maxFailures = 64

func cleanFailures(failed []install.Failure) []install.Failure {
	var clean []install.Failure
	for _, f := range failed[:min(len(failed), maxFailures)] {
		f.Template, f.Reason, f.Hint = push.CleanText(f.Template), push.CleanText(f.Reason), push.CleanText(f.Hint)
		clean = append(clean, f)
	}
	if more := len(failed) - len(clean); more > 0 {
		clean = append(clean, install.Failure{Template: "others", Reason: fmt.Sprintf("%d more", more)})
	}
	return clean
}
