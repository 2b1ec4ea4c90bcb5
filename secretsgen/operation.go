package secretsgen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"fleet/evaluator/plan"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
	"fleet/secretsgen/trust"
)

// operation is one changing operation: it holds the lock of the state.
type operation struct {
	*view
	programs *programs
	// local and remote hold a token for every generator that runs here and every request to a host.
	local, remote chan struct{}

	// mu guards the tree's map, the outcomes and the hosts' problems. Entries themselves are never changed, only replaced.
	mu       sync.Mutex
	outcomes map[secret.ID]*Outcome
	problems []HostProblem
	looked   map[secret.ID]bool
	done     int
	total    int
}

// begin locks the state, reads it and evaluates what is needed. end must be called.
func (e *Engine) begin(ctx context.Context, hosts []string) (o *operation, end func(), err error) {
	e.takeVariables(newDeclarations(e.Plan))
	unlock, err := e.State.Lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	v, err := e.open(ctx, hosts)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return v.operation(), unlock, nil
}

func (v *view) operation() *operation {
	return &operation{
		view: v, programs: newPrograms(v.Programs),
		local: make(chan struct{}, v.limits.Local), remote: make(chan struct{}, v.limits.Hosts),
		outcomes: map[secret.ID]*Outcome{}, looked: map[secret.ID]bool{},
	}
}

// with runs do while it holds a token, or returns why the operation has ended.
func with[T any](ctx context.Context, tokens chan struct{}, do func() (T, error)) (T, error) {
	var nothing T
	select {
	case tokens <- struct{}{}:
	case <-ctx.Done():
		return nothing, context.Cause(ctx)
	}
	defer func() { <-tokens }()
	if err := ctx.Err(); err != nil {
		return nothing, context.Cause(ctx)
	}
	return do()
}

// reach is [keyring.reachable], as one of the requests to hosts.
func (o *operation) reach(ctx context.Context, host string) error {
	_, err := with(ctx, o.remote, func() (struct{}, error) { return struct{}{}, o.keys.reachable(ctx, host) })
	return err
}

// note begins or finds the outcome of a secret and changes it.
func (o *operation) note(id secret.ID, change func(*Outcome)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	one := o.outcomes[id]
	if one == nil {
		one = &Outcome{ID: id, Action: ActionNone, Rules: []int{}}
		o.outcomes[id] = one
	}
	change(one)
}

// judge notes what a decision says, before anything is done.
func (o *operation) judge(id secret.ID, d decide.Decision) {
	o.mu.Lock()
	o.looked[id] = true
	o.mu.Unlock()
	action := actionOf(o.entry(id), d)
	if action == ActionNone && d.NeedsHuman == "" && len(d.Pending)+len(d.Notices) == 0 {
		return
	}
	o.note(id, func(one *Outcome) {
		one.Action, one.Rules, one.Why = action, ruleNumbers(d.Rules), d.Why
		one.Pending, one.Notices, one.NeedsHuman, one.Hint = d.Pending, slices.Clone(d.Notices), d.NeedsHuman, d.Command
	})
}

// fail notes why a secret stays as it was. What waits for a person is told apart from what went wrong.
func (o *operation) fail(ctx context.Context, id secret.ID, err error) {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var person *personError
	isPerson := errors.As(err, &person) || errors.Is(err, trust.ErrUnaccepted)
	o.note(id, func(one *Outcome) {
		if isPerson {
			one.NeedsHuman = err.Error()
		} else {
			one.Error = err.Error()
		}
		one.Hint = hintOf(err)
	})
	if ctx.Err() == nil {
		o.emit(plan.Event{Kind: plan.EventWarning, Message: fmt.Sprintf("%s: %v", id, err), Hint: hintOf(err)})
	}
}

// personError is what only a person can mend.
type personError struct {
	text, hint string
	err        error
}

func (e *personError) Error() string { return e.text }
func (e *personError) Unwrap() error { return e.err }
func (e *personError) Hint() string  { return e.hint }

// save puts a secret into the state, and from then on into decisions.
func (o *operation) save(ctx context.Context, entry *state.Entry, change func(*Outcome)) error {
	// What is finished is saved also where the operation is being cancelled.
	err := o.State.Put(context.WithoutCancel(ctx), entry)
	var untracked *state.UntrackedError
	if err != nil && !errors.As(err, &untracked) {
		return err
	}
	o.mu.Lock()
	o.tree.Secrets[entry.ID] = entry
	o.done++
	done, total := o.done, o.total
	o.mu.Unlock()
	message := ""
	o.note(entry.ID, func(one *Outcome) {
		one.Done, one.Gen = true, entry.Meta.Gen
		change(one)
		if untracked != nil {
			one.Notices = append(one.Notices, fmt.Sprintf("%v; to mend it: %s", untracked, untracked.Hint()))
		}
		message = one.sentence()
	})
	o.emit(plan.Event{Kind: plan.EventProgress, Message: message, Done: uint64(done), Total: uint64(max(done, total))})
	return nil
}

// sentence is an outcome on one line.
func (o *Outcome) sentence() string {
	words := []string{o.ID.String() + ":"}
	switch o.Action {
	case ActionGenerate:
		words = append(words, "generated")
	case ActionRegenerate:
		words = append(words, "regenerated")
	case ActionPrune:
		words = append(words, "removed")
	case ActionSet:
		words = append(words, "set")
	case ActionAccept:
		words = append(words, "accepted as it is")
	}
	if o.Via != "" && len(words) > 1 {
		words = append(words, "on", o.Via)
	}
	if len(words) == 1 && len(o.Wrapped) > 0 {
		words = append(words, "encrypted to", joinNames(o.Wrapped))
	}
	if len(o.Removed) > 0 {
		words = append(words, "taken from", joinNames(o.Removed))
	}
	return strings.Join(words, " ")
}

func (e *Engine) emit(event plan.Event) {
	if e.Reporter == nil {
		return
	}
	event.Time, event.Step = e.Now(), plan.StepSecrets
	e.Reporter.Emit(event)
}

// entry is the state of a secret as it is now; nil where there is none.
func (o *operation) entry(id secret.ID) *state.Entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tree.Secrets[id]
}

// decideNow decides on a secret with what is in the state by now.
func (o *operation) decideNow(id secret.ID) decide.Decision {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.decide(id, o.gen)
}

// hostProblem notes that something is wrong with a host, once.
func (o *operation) hostProblem(p HostProblem) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.ContainsFunc(o.problems, func(q HostProblem) bool { return q.Host == p.Host && q.Kind == p.Kind }) {
		o.problems = append(o.problems, p)
	}
}

// report is what became of it all.
func (o *operation) report() *Report {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := &Report{Fleet: o.Plan.Fleet, Secrets: []Outcome{}, Hosts: o.problems, Written: o.State.Written()}
	for _, id := range sortIDs(slices.Collect(maps.Keys(o.outcomes))) {
		r.Secrets = append(r.Secrets, *o.outcomes[id])
	}
	for id := range o.looked {
		if o.outcomes[id] == nil {
			r.Unchanged++
		}
	}
	if r.Hosts == nil {
		r.Hosts = []HostProblem{}
	}
	if r.Written == nil {
		r.Written = []string{}
	}
	slices.SortStableFunc(r.Hosts, byHost)
	return r
}
