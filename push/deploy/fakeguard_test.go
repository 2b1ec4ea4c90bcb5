package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"fleet/push"
	"fleet/push/guard"
	"fleet/push/proto"
	"fleet/push/transport"
)

// guarded is what a host's guard meets. The zero value is a host on which all goes well.
type guarded struct {
	// worker ends a run of switch-to-configuration; nil means that it takes a second and succeeds.
	worker func(system string, verb guard.Verb) (exit int)
	// judge is the host's own look at itself; nil finds nothing.
	judge func() string
	// reach says why the host cannot be reached by a way, "" being the direct one; nil means that it can.
	reach func(way string) error
	// elevate says why nobody becomes root over a new connection.
	elevate func() error
	// boots says which system a reboot brings, of the staged one and the default; nil means the staged one.
	boots func(staged, fallback string) string
	// down is how long a reboot takes.
	down time.Duration
	// loseAnswer drops the answer to the first confirmation.
	loseAnswer bool
	// policy is what the last transaction was begun with, check answers those who have the host look at another one.
	policy *proto.GuardPolicy
	check  func(proto.CheckRequest) string
}

// fakeTxn is a transaction that the real state machine decides about.
type fakeTxn struct {
	name    string
	h       *fakeHost
	request proto.BeginRequest
	events  chan guard.Event
	quit    <-chan struct{}

	mu     sync.Mutex
	state  guard.State
	nonce  string
	staged string
	booted bool
	// switched is when the activation had ended, away until when the host is down.
	switched, away time.Time
	phases         []guard.Phase
	changed        chan struct{}
}

func (w *world) now() guard.Boottime { return guard.Boottime(time.Since(w.born)) }

// newTxn begins a transaction. It is the host's guard that runs, not the test.
func (w *world) newTxn(name string, h *fakeHost, request proto.BeginRequest) {
	p := guard.Policy{Judge: time.Hour, Reboot: guard.RebootIfSafe, RebootSafe: true}
	if g := request.Guard; g != nil {
		seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
		p.Switch, p.Confirm, p.Rollback, p.BootConfirm = seconds(g.SwitchSeconds), seconds(g.ConfirmSeconds), seconds(g.RollbackSeconds), seconds(g.BootConfirmSeconds)
		p.NoRollback, p.SelfConfirm, p.Reboot = g.NoRollback, g.SelfConfirm, guard.RebootPolicy(g.Reboot)
		h.guarded.policy = g
	}
	old := guard.Systems{Current: h.info.Current, Booted: h.info.Booted, Profile: h.info.Profile, Generation: h.info.Generation, BootDefault: h.info.BootDefault}
	target := request.Toplevel
	if request.Specialisation != "" {
		target = "/nix/store/" + request.Specialisation
	}
	t := &fakeTxn{
		name: name, h: h, request: request, events: make(chan guard.Event, 100), quit: w.quit, changed: make(chan struct{}),
		state: guard.Begin(guard.Action(request.Action), p, old, request.Toplevel, target, h.info.BootID),
	}
	h.txns = append(h.txns, t)
	t.events <- guard.Event{Kind: guard.Start}
	go t.run(w)
}

// run is the guard: one event after the other, and what follows from each.
func (t *fakeTxn) run(w *world) {
	for {
		t.mu.Lock()
		deadline, phase := t.state.Deadline, t.state.Phase
		t.mu.Unlock()
		if phase.Ended() {
			return
		}
		tick := make(<-chan time.Time)
		if deadline > 0 {
			tick = time.After(time.Duration(deadline - w.now()))
		}
		var e guard.Event
		select {
		case e = <-t.events:
		case <-tick:
			e.Kind = guard.Tick
		case <-t.quit:
			return
		}
		e.Now = w.now()
		t.mu.Lock()
		var effects []guard.Effect
		t.state, effects = guard.Step(t.state, e)
		if t.state.Phase != phase {
			t.phases = append(t.phases, t.state.Phase)
		}
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
		for _, effect := range effects {
			t.perform(w, effect)
		}
	}
}

func (t *fakeTxn) post(e guard.Event) {
	select {
	case t.events <- e:
	case <-t.quit:
	}
}

func (t *fakeTxn) perform(w *world, effect guard.Effect) {
	w.mu.Lock()
	defer w.mu.Unlock()
	info, g, s := &t.h.info, &t.h.guarded, t.state
	ok := func(kind guard.EventKind, err string) { t.post(guard.Event{Kind: kind, OK: err == "", Detail: err}) }
	switch effect.Kind {
	case guard.StartWorker:
		go t.work(w, effect)
	case guard.Judge:
		problem := ""
		if g.judge != nil {
			problem = g.judge()
		}
		ok(guard.Judged, problem)
	case guard.OpenConfirm:
		t.mu.Lock()
		t.nonce = fmt.Sprintf("nonce-%d", len(t.h.txns))
		t.mu.Unlock()
	case guard.CloseConfirm:
		t.mu.Lock()
		t.nonce = ""
		t.mu.Unlock()
	case guard.SetProfile:
		info.Profile = effect.System
		info.Generation++
		ok(guard.StepDone, "")
	case guard.RestoreProfile:
		info.Profile, info.Generation = s.Old.Profile, s.Old.Generation
		ok(guard.StepDone, "")
	case guard.VerifyNew:
		ok(guard.StepDone, differ(info.Profile, s.New)+differ(info.BootDefault, s.New))
	case guard.Stage:
		t.staged = s.New
		ok(guard.StageDone, "")
	case guard.Unstage:
		t.staged = ""
	case guard.VerifyOld:
		ok(guard.Verified, differ(info.Profile, s.Old.Profile)+differ(info.BootDefault, s.Old.BootDefault)+differ(info.Current, s.Old.Current))
	case guard.RebootHost:
		t.mu.Lock()
		t.away = time.Now().Add(g.down)
		t.mu.Unlock()
		time.AfterFunc(g.down, func() { t.bootUp(w) })
	}
}

func differ(got, want string) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%q is not %q", got, want)
}

// work is one run of switch-to-configuration.
func (t *fakeTxn) work(w *world, effect guard.Effect) {
	exit := 0
	if do := t.h.guarded.worker; do != nil {
		exit = do(effect.System, effect.Verb)
	}
	w.mu.Lock()
	if exit == 0 || exit == 4 {
		if effect.Verb == guard.VerbBoot {
			t.h.info.BootDefault = effect.System
		} else {
			t.h.info.Current = effect.System
		}
	}
	w.mu.Unlock()
	t.mu.Lock()
	t.switched = time.Now()
	t.mu.Unlock()
	t.post(guard.Event{Kind: guard.WorkerEnded, Worker: effect.Worker, Exit: exit})
}

func (t *fakeTxn) bootUp(w *world) {
	w.mu.Lock()
	info := &t.h.info
	next := info.BootDefault
	if t.staged != "" {
		next = t.staged
		if t.h.guarded.boots != nil {
			next = t.h.guarded.boots(t.staged, info.BootDefault)
		}
	}
	t.staged = ""
	info.Current, info.Booted, info.BootID = next, next, info.BootID+"+"
	id := info.BootID
	w.mu.Unlock()
	t.mu.Lock()
	t.switched, t.booted = time.Now(), true
	t.mu.Unlock()
	t.post(guard.Event{Kind: guard.Recover, BootID: id, Seen: guard.Systems{Booted: next, Current: next}})
}

// status is what the host says of it.
func (t *fakeTxn) status(w *world) proto.TxnStatus {
	w.mu.Lock()
	info := t.h.info
	w.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state
	st := proto.TxnStatus{
		Txn: t.name, State: proto.TxnState(s.Phase), Action: t.request.Action, Toplevel: t.request.Toplevel, Specialisation: t.request.Specialisation,
		Owner: t.request.Owner, ExitCode: s.ExitCode, Reason: s.Reason, Trouble: s.Trouble, Booted: s.Booted,
		Current: info.Current, Profile: info.Profile, BootDefault: info.BootDefault, Generation: info.Generation,
	}
	if s.Deadline > 0 {
		st.DeadlineSeconds = int(time.Duration(s.Deadline-w.now()) / time.Second)
	}
	return st
}

// lost is the error of a connection on which nothing comes any more; nil where it works.
func (s *fakeSession) lost() error {
	s.w.mu.Lock()
	reach, txns := s.host.guarded.reach, s.host.txns
	s.w.mu.Unlock()
	if n := len(txns); n > 0 {
		txns[n-1].mu.Lock()
		away := txns[n-1].away
		txns[n-1].mu.Unlock()
		if time.Now().Before(away) {
			return &transport.UnreachableError{Host: s.name, Kind: transport.UnreachableTimeout, Err: errors.New("it is down")}
		}
	}
	if reach == nil {
		return nil
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return reach(s.way)
}

func (s *fakeSession) Again(ctx context.Context, spec push.HostSpec) (Session, error) {
	other := &fakeSession{w: s.w, name: s.name, host: s.host, again: true}
	what := "again"
	if spec.Target.Via != nil {
		other.way = spec.Target.Via.Host
		what += " via " + other.way
	}
	if err := s.w.do(ctx, s.name, what); err != nil {
		return nil, err
	}
	if err := other.lost(); err != nil {
		return nil, err
	}
	if elevate := s.host.guarded.elevate; elevate != nil {
		if err := elevate(); err != nil {
			return nil, err
		}
	}
	other.made = time.Now()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.host.open++
	return other, nil
}

func (s *fakeSession) Begin(ctx context.Context, r proto.BeginRequest) (string, error) {
	if err := s.w.do(ctx, s.name, "begin"); err != nil {
		return "", err
	}
	if s.host.begin != nil {
		return "", s.host.begin
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if r.Action == proto.ActionDryActivate {
		s.host.txns = append(s.host.txns, &fakeTxn{name: "txn-" + s.name, h: s.host, request: r, state: guard.State{Phase: guard.Committed}, changed: make(chan struct{})})
	} else {
		s.w.newTxn("txn-"+s.name, s.host, r)
	}
	return "txn-" + s.name, nil
}

func (s *fakeSession) txn() *fakeTxn {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.host.txns[len(s.host.txns)-1]
}

func (s *fakeSession) Watch(ctx context.Context, watch *push.Watch) (proto.TxnStatus, error) {
	each := watch.Each
	if each == nil {
		each = func(proto.TxnEvent) {}
	}
	what := "watch"
	if !s.again {
		what = "attach"
	}
	if err := s.w.do(ctx, s.name, what); err != nil {
		return proto.TxnStatus{}, err
	}
	if !s.again && !s.logged {
		s.logged = true
		each(proto.TxnEvent{Log: "activating the con"})
		each(proto.TxnEvent{Log: "figuration\nsetting up /etc"})
	}
	t := s.txn()
	told := 0
	for {
		if err := s.lost(); err != nil {
			if watch.Lost != nil {
				watch.Lost(err)
			}
			return proto.TxnStatus{}, &push.DetachedError{Host: s.name, Txn: watch.Txn, Err: &push.LostError{Host: s.name, Tries: 1, Err: err}}
		}
		t.mu.Lock()
		phases, changed, done := slices.Clone(t.phases[told:]), t.changed, proto.TxnState(t.state.Phase).Done()
		told = len(t.phases)
		t.mu.Unlock()
		for _, phase := range phases {
			each(proto.TxnEvent{State: proto.TxnState(phase)})
		}
		if done {
			st := t.status(s.w)
			if s.host.status != nil {
				s.host.status(&st)
			}
			return st, nil
		}
		select {
		case <-changed:
		case <-time.After(time.Second): // the connection may be gone
		case <-ctx.Done():
			return proto.TxnStatus{}, &push.DetachedError{Host: s.name, Txn: watch.Txn, Err: ctx.Err()}
		}
	}
}

func (s *fakeSession) Status(ctx context.Context, txn string) (proto.TxnStatus, error) {
	if err := errors.Join(s.w.do(ctx, s.name, "status"), s.lost()); err != nil {
		return proto.TxnStatus{}, err
	}
	return s.txn().status(s.w), nil
}

func (s *fakeSession) Nonce(ctx context.Context, txn string) (string, error) {
	if err := errors.Join(s.w.do(ctx, s.name, "nonce"), s.lost()); err != nil {
		return "", err
	}
	t := s.txn()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nonce == "" {
		return "", &push.AgentError{Host: s.name, Method: proto.MethodNonce, Code: proto.CodeTooLate, Message: "it does not wait"}
	}
	return t.nonce, nil
}

// Confirm holds a confirmation to the rules of the real guard: the right nonce, over a connection that is younger than the switch.
func (s *fakeSession) Confirm(ctx context.Context, txn, nonce string) error {
	if err := errors.Join(s.w.do(ctx, s.name, "confirm"), s.lost()); err != nil {
		return err
	}
	refuse := func(code proto.ErrorCode, message string) error {
		return &push.AgentError{Host: s.name, Method: "guard.confirm", Code: code, Message: message}
	}
	t := s.txn()
	t.mu.Lock()
	have, switched := t.nonce, t.switched
	t.mu.Unlock()
	switch {
	case have == "":
		return refuse(proto.CodeTooLate, "it does not wait")
	case have != nonce:
		return refuse(proto.CodeToken, "another nonce")
	case s.made.Before(switched):
		return refuse(proto.CodeForbidden, "the connection is older than the switch")
	}
	t.post(guard.Event{Kind: guard.Confirm})
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.host.guarded.loseAnswer {
		s.host.guarded.loseAnswer = false
		return &push.LostError{Host: s.name, Tries: 1, Err: errors.New("cut")}
	}
	return nil
}

func (s *fakeSession) Abort(ctx context.Context, txn, reason string) (proto.TxnStatus, error) {
	if err := errors.Join(s.w.do(ctx, s.name, "abort"), s.lost()); err != nil {
		return proto.TxnStatus{}, err
	}
	t := s.txn()
	t.post(guard.Event{Kind: guard.Abort, Detail: reason})
	return s.Watch(ctx, &push.Watch{Txn: txn})
}

func (s *fakeSession) Generations(ctx context.Context) ([]proto.Generation, error) {
	return slices.Clone(s.host.generations), s.w.do(ctx, s.name, "generations")
}

func (s *fakeSession) Check(ctx context.Context, r proto.CheckRequest) (string, error) {
	if err := s.w.do(ctx, s.name, "check "+r.Name); err != nil {
		return "", err
	}
	if s.host.guarded.check == nil {
		return "", nil
	}
	return s.host.guarded.check(r), nil
}
