// Package deploy is the pipeline of a deployment: connect, evaluate, build, push, activate.
//
// Every host has a goroutine of its own and moves on as soon as its own step is done; nothing waits
// for all hosts but a person's confirmation, where one is asked for. What is decided is kept apart from what is
// done: decide.go, report.go and exit.go are pure. The package prints nothing; it emits events and returns a report.
//
// A failed host never makes a run succeed, and never stops another one unless the request says so. When the
// context ends before a host's activation, nothing is left on that host; an activation that has begun goes on there without us.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fleet/closure"
	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/push/proto"
)

// Reporter receives what happens. It is called from many goroutines and must not block for long.
type Reporter interface {
	Emit(plan.Event)
}

// Deployer runs deployments of one fleet. Its fields are its configuration; it is safe for concurrent use once they are set.
type Deployer struct {
	Backend evaluator.Backend
	// Snapshot and Plan are what Open returned for Backend.
	Snapshot evaluator.Snapshot
	Plan     *plan.Plan
	// Connector may be nil for builds that need no host.
	Connector Connector
	// Hosts are used in place of Connector, and of the request's overrides, where they are given: what makes secrets then has the same
	// sessions. They are closed at the end of a run.
	Hosts *Hosts
	// Secrets makes what hosts miss. Where it is nil, hosts that miss something are [OutcomeSecrets], and NoSecrets says why nothing is made:
	// "there is no terminal".
	Secrets   Secrets
	NoSecrets string
	// Leaks, unless nil, looks for private keys in what was built, and warns of them.
	Leaks    *Leaks
	Reporter Reporter
	Limits   Limits
	// Specialisation returns the store path of a toplevel's specialisation in the local store.
	// Nil means that none is known before the host says so.
	Specialisation func(toplevel, name string) (string, error)
	// Look makes a health check of a host from this machine once and returns what is wrong; nil means [LookFromHere].
	Look func(ctx context.Context, host, address, name string, check proto.HealthCheck) string
}

// Limits bound what a run does at the same time. Zero values mean the defaults.
type Limits struct {
	// Hosts bounds how many hosts are connected to, build, are pushed to, or are activated at the same time, each on its own; default
	// 32. Evaluations and builds on this machine are bounded by the backend.
	Hosts int
	// BatchWindow is how long a connected host waits for others to be evaluated with; default 300 ms.
	BatchWindow time.Duration
	// Begin bounds opening a transaction, with the host's own look at what speaks against it, which an interruption does not stop; default 2 minutes.
	Begin time.Duration
	// Away bounds how long a host may stay away during a guarded activation; by default until its guard is certainly done.
	Away time.Duration
	// StillTrying is how long is waited for a rollback that has failed and is tried again; default one minute.
	StillTrying time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.Hosts <= 0 {
		l.Hosts = 32
	}
	if l.BatchWindow <= 0 {
		l.BatchWindow = 300 * time.Millisecond
	}
	if l.Begin <= 0 {
		l.Begin = 2 * time.Minute
	}
	if l.StillTrying <= 0 {
		l.StillTrying = time.Minute
	}
	return l
}

// Request says what to do with which hosts.
type Request struct {
	Action Action
	// Hosts are names in the plan, see [plan.Select].
	Hosts []string
	// FailFast stops all other hosts that have not begun their activation as soon as one has failed.
	FailFast bool
	// Confirm is asked once, before the first activation, when more than one host is about to change; nil asks nobody.
	Confirm func(ctx context.Context, changes []Change) (bool, error)
	// Substitute overrides deploy.substituteOnDestination of all hosts, unless nil.
	Substitute *bool
	// Signer signs what is pushed; nil signs nothing.
	Signer *closure.SigningKey
	// Owner says who deploys, for the host's lock: user@machine.
	Owner string
	// Overrides change how hosts are reached, Guard how their activations are guarded.
	Overrides Overrides
	Guard     GuardOverrides
	// To is the generation that [ActionRollback] goes back to; 0 means the newest one before the present that is another system.
	To int
}

// Change is a host that is about to change.
type Change struct {
	Host string
	// Old is the system that runs, New the toplevel that will.
	Old, New string
}

// Open asks a backend for a fleet's snapshot and plan, and emits the plan's step and warnings.
func Open(ctx context.Context, backend evaluator.Backend, reporter Reporter) (evaluator.Snapshot, *plan.Plan, error) {
	start := time.Now()
	emit := func(e plan.Event) {
		e.Time, e.Step = time.Now(), plan.StepPlan
		reporter.Emit(e)
	}
	emit(plan.Event{Kind: plan.EventStarted})
	snapshot, err := backend.Snapshot(ctx)
	var p *plan.Plan
	if err == nil {
		p, err = backend.Plan(ctx, snapshot)
	}
	seconds := time.Since(start).Seconds()
	if err != nil {
		emit(plan.Event{Kind: plan.EventFailed, Message: err.Error(), Seconds: seconds})
		return evaluator.Snapshot{}, nil, err
	}
	for _, w := range p.Warnings {
		emit(plan.Event{Kind: plan.EventWarning, Message: w})
	}
	emit(plan.Event{Kind: plan.EventDone, Message: fmt.Sprintf("%s in %s", hosts(len(p.Hosts)), snapshot.Source), Seconds: seconds})
	return snapshot, p, nil
}

func hosts(n int) string {
	if n == 1 {
		return "1 host"
	}
	return fmt.Sprintf("%d hosts", n)
}

// The causes for which a run cancels its hosts.
var (
	errFailFast = errors.New("another host failed")
	errDeclined = errors.New("not confirmed")
)

// Run deploys. The error is about the request alone; what happened to hosts is in the report, which is never nil then.
func (d *Deployer) Run(ctx context.Context, request Request) (*Report, error) {
	if !request.Action.Valid() {
		return nil, fmt.Errorf("deploy: unknown action %q", request.Action)
	}
	for _, name := range request.Hosts {
		if _, ok := d.Plan.Hosts[name]; !ok {
			return nil, fmt.Errorf("deploy: no host %q in fleet %q", name, d.Plan.Fleet)
		}
	}
	start := time.Now()
	r := newDeployment(ctx, d, request)
	defer r.cancel(nil)
	reports := make([]HostReport, len(request.Hosts))
	var hosts sync.WaitGroup
	for i, name := range request.Hosts {
		hosts.Go(func() { reports[i] = r.host(name) })
	}
	hosts.Wait()
	r.sessions.closeAll()
	report := &Report{Action: request.Action, Fleet: d.Plan.Fleet, Duration: time.Since(start), Hosts: reports}
	if d.Secrets != nil {
		report.Uncommitted = d.Secrets.Uncommitted()
	}
	return report, nil
}

// deployment is the shared state of the hosts of one Run.
type deployment struct {
	*Deployer
	limits  Limits
	request Request
	// outer ends with the caller's context, which an activation watches; work also ends when the run gives up.
	outer, work context.Context
	cancel      context.CancelCauseFunc
	sessions    *sessions
	records     *batcher
	secrets     *rounds
	gate        *gate
	// builders are hosts whose sessions others need too.
	builders map[string]bool
	// relays are those of the hosts, by name.
	relays map[string]*relay
	// pushes, activations and builds (on hosts) hold a token for each that is under way.
	pushes, activations, builds chan struct{}
}

func newDeployment(ctx context.Context, d *Deployer, request Request) *deployment {
	limits := d.Limits.withDefaults()
	r := &deployment{Deployer: d, limits: limits, request: request, outer: ctx, builders: builders(d.Plan, request.Hosts), relays: relays(d.Plan, request.Hosts),
		pushes:      make(chan struct{}, limits.Hosts),
		activations: make(chan struct{}, limits.Hosts),
		builds:      make(chan struct{}, limits.Hosts),
	}
	r.work, r.cancel = context.WithCancelCause(ctx)
	r.sessions = newSessions(r.connect, limits.Hosts)
	if d.Hosts != nil {
		r.sessions = d.Hosts.sessions
	}
	r.records = newBatcher(r.evaluateWith(d.Snapshot), limits.BatchWindow, len(request.Hosts))
	r.secrets = newRounds(len(request.Hosts), r.ensure, r.again)
	if request.Confirm != nil && request.Action.Changes() {
		r.gate = newGate(len(request.Hosts), request.Confirm)
	}
	return r
}

// holding does f with a token, or returns why the run has ended.
func (r *deployment) holding(tokens chan struct{}, f func() error) error {
	if err := r.acquire(tokens); err != nil {
		return err
	}
	defer func() { <-tokens }()
	return f()
}

// acquire takes a token, or returns why the run has ended.
func (r *deployment) acquire(tokens chan struct{}) error {
	select {
	case tokens <- struct{}{}:
		if err := context.Cause(r.work); err != nil {
			<-tokens
			return err
		}
		return nil
	case <-r.work.Done():
		return context.Cause(r.work)
	}
}
