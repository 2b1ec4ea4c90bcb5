package deploy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fleet/closure/storepath"
	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
	"fleet/push/transport"
)

// world is a fleet in memory: what the pipeline's two interfaces can see of one. It stands in for Nix and for hosts, never for the pipeline.
type world struct {
	mu    sync.Mutex
	plan  *plan.Plan
	hosts map[string]*fakeHost
	// batches are the hosts of each call of Records.
	batches [][]string
	// events are all that was emitted, as "host step kind".
	events []plan.Event
	// log is the order of what was done, as "host what".
	log []string
	// evalErr, by host; recordsErr is about a whole batch.
	evalErr    map[string]error
	buildErr   map[string]error
	recordsErr error
	// missing and public say what a host misses in a snapshot, by the snapshot's reference.
	missing map[string]map[string][]string
	public  map[string]map[string][]evaluator.PublicRef
	// answer is what hosts say to requests about secrets.
	answer func(host string, request push.SecretsRequest) error
	// hook is called before something is done, outside of the lock; an error fails it.
	hook func(ctx context.Context, host, what string) error
	// born is the moment from which hosts count, and quit ends what still runs on them.
	born time.Time
	quit chan struct{}
}

type fakeHost struct {
	info    proto.HostInfo
	connect error
	push    error
	take    error
	begin   error
	// status changes what a transaction ends with.
	status func(*proto.TxnStatus)
	valid  map[string]bool
	closed int
	// pushes are what was asked to be pushed to it.
	pushes []push.PushRequest
	// moved is what went through its sessions.
	moved atomic.Uint64
	// open are the sessions that were opened again and not closed.
	open int
	// guarded is what the host's guard meets.
	guarded guarded
	// txns are its transactions, oldest first.
	txns        []*fakeTxn
	generations []proto.Generation
}

const zeros = "00000000000000000000000000000000"

func toplevel(host string, version int) string {
	return fmt.Sprintf("/nix/store/%s-nixos-%s-%d", zeros, host, version)
}

// newWorld makes hosts that run version 1 while the plan says version 2.
func newWorld(names ...string) *world {
	w := &world{plan: &plan.Plan{FormatVersion: 1, Fleet: "default", Hosts: map[string]plan.Host{}}, hosts: map[string]*fakeHost{},
		evalErr: map[string]error{}, buildErr: map[string]error{}, born: time.Now(), quit: make(chan struct{})}
	for _, name := range names {
		w.plan.Hosts[name] = plan.Host{System: "x86_64-linux", Tags: []string{"all"}, Deploy: plan.Deploy{Address: name, Transport: "native", BuildOn: "operator"}}
		old := toplevel(name, 1)
		w.hosts[name] = &fakeHost{info: proto.HostInfo{Root: true, BootID: "boot", Current: old, Booted: old, Profile: old, BootDefault: old, Generation: 1}, valid: map[string]bool{old: true}}
	}
	return w
}

func (w *world) do(ctx context.Context, host, what string) error {
	w.mu.Lock()
	w.log = append(w.log, host+" "+what)
	hook := w.hook
	w.mu.Unlock()
	if hook != nil {
		return hook(ctx, host, what)
	}
	return ctx.Err()
}

func (w *world) did(entry string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.log, entry)
}

func (w *world) Emit(e plan.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// The backend.

func (w *world) Snapshot(context.Context) (evaluator.Snapshot, error) {
	return evaluator.Snapshot{Source: "memory"}, nil
}
func (w *world) Plan(context.Context, evaluator.Snapshot) (*plan.Plan, error) { return w.plan, nil }
func (w *world) Helper(context.Context, evaluator.Snapshot, *plan.Plan, string) (storepath.Path, error) {
	return storepath.Parse("/nix/store/" + zeros + "-fleet-helper")
}

func (w *world) Records(ctx context.Context, snapshot evaluator.Snapshot, _ *plan.Plan, hosts []string, each func(evaluator.RecordResult)) error {
	w.mu.Lock()
	w.batches = append(w.batches, hosts)
	w.mu.Unlock()
	if w.recordsErr != nil {
		return w.recordsErr
	}
	for _, name := range hosts {
		if err := w.do(ctx, name, "evaluate"); err != nil {
			each(evaluator.RecordResult{Host: name, Err: err})
			continue
		}
		if err := w.evalErr[name]; err != nil {
			each(evaluator.RecordResult{Host: name, Err: err})
			continue
		}
		record := plan.Record{Specs: &plan.Specs{Missing: w.missing[snapshot.Ref][name]}}
		if len(record.Specs.Missing) > 0 {
			each(evaluator.RecordResult{Host: name, Record: record})
			continue
		}
		if refs := w.public[snapshot.Ref][name]; len(refs) > 0 {
			each(evaluator.RecordResult{Host: name, Record: record, Err: &evaluator.MissingPublicError{Host: name, Refs: refs, Err: &evaluator.EvalError{Host: name}}})
			continue
		}
		top := toplevel(name, 2)
		each(evaluator.RecordResult{Host: name, Record: plan.Record{System: &plan.System{OutPath: top, DrvPath: top + ".drv", Specialisations: []string{"dark"}}}})
	}
	return nil
}

func (w *world) Specs(context.Context, evaluator.Snapshot, *plan.Plan, []string, func(evaluator.RecordResult)) error {
	panic("the pipeline asks for no specs")
}

func (w *world) Generators(context.Context, evaluator.Snapshot, *plan.Plan, string, []string) (map[string]evaluator.Program, map[string]error, error) {
	panic("the pipeline makes no secrets")
}

func (w *world) BuildPrograms(context.Context, string, map[string]evaluator.Program) (map[string]error, error) {
	panic("the pipeline makes no secrets")
}

func (w *world) Build(ctx context.Context, r evaluator.BuildRequest) error {
	if err := w.do(ctx, r.Host, "build"); err != nil {
		return err
	}
	return w.buildErr[r.Host]
}

// The connector.

func (w *world) Connect(ctx context.Context, spec push.HostSpec) (Session, error) {
	name := spec.Target.Host
	if err := w.do(ctx, name, "connect"); err != nil {
		return nil, err
	}
	if err := w.hosts[name].connect; err != nil {
		return nil, err
	}
	return &fakeSession{w: w, name: name, host: w.hosts[name], made: time.Now()}, nil
}

func (w *world) Plain(ctx context.Context, spec push.HostSpec, cause error) (Pusher, error) {
	name := spec.Target.Host
	if err := w.do(ctx, name, "plain"); err != nil {
		return nil, err
	}
	return fakePusher{&fakeSession{w: w, name: name, host: w.hosts[name], made: time.Now()}}, nil
}

// withoutNotice is what a push without the helper tells.
const withoutNotice = "pushed without the helper"

type fakePusher struct{ *fakeSession }

func (p fakePusher) Push(ctx context.Context, r push.PushRequest) (push.PushResult, error) {
	result, err := p.fakeSession.Push(ctx, r)
	result.Notices = []string{withoutNotice}
	return result, err
}

func (w *world) HostKey(ctx context.Context, spec push.HostSpec) (string, transport.Provenance, error) {
	name := spec.Target.Host
	return "ssh-ed25519 " + name, transport.ProvenancePinned, w.do(ctx, name, "handshake")
}

type fakeSession struct {
	w    *world
	name string
	host *fakeHost
	// way is the vantage that it leads through, "" for none, and again says that it is not the first one.
	way   string
	again bool
	made  time.Time
	// logged says that the log was sent.
	logged bool
}

func (s *fakeSession) Info() proto.HostInfo {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.host.info
}

func (s *fakeSession) HostKey() (string, transport.Provenance) {
	return "ssh-ed25519 session-" + s.name + " comment", transport.ProvenancePinned
}

func (s *fakeSession) Secrets(ctx context.Context, r push.SecretsRequest) error {
	if err := s.w.do(ctx, s.name, strings.TrimPrefix(r.Method, "secrets.")); err != nil || s.w.answer == nil {
		return err
	}
	return s.w.answer(s.name, r)
}

func (s *fakeSession) Refresh(ctx context.Context) (proto.HostInfo, error) {
	return s.Info(), s.w.do(ctx, s.name, "refresh")
}

func (s *fakeSession) Moved() uint64 { return s.host.moved.Load() }

func (s *fakeSession) Push(ctx context.Context, r push.PushRequest) (push.PushResult, error) {
	if err := s.w.do(ctx, s.name, "push"); err != nil {
		return push.PushResult{}, err
	}
	s.w.mu.Lock()
	s.host.pushes = append(s.host.pushes, r)
	s.w.mu.Unlock()
	return push.PushResult{Paths: 3, NarBytes: 300, WireBytes: 100}, s.host.push
}

func (s *fakeSession) Offer(ctx context.Context, r push.OfferRequest) (*push.Offer, error) {
	if err := s.w.do(ctx, s.name, "offer"); err != nil {
		return nil, err
	}
	return &push.Offer{Port: r.Port}, nil
}

func (s *fakeSession) Take(ctx context.Context, r push.TakeRequest) (push.PushResult, error) {
	if err := s.w.do(ctx, s.name, "take "+r.Address); err != nil {
		return push.PushResult{}, err
	}
	offer, err := r.Offer(ctx, "peer", r.Roots)
	if err != nil {
		return push.PushResult{}, &push.RelayError{Host: s.name, Relay: r.Relay, Err: err}
	}
	offer.Close()
	return push.PushResult{Paths: 2, NarBytes: 200, WireBytes: 10}, s.host.take
}

func (s *fakeSession) Build(ctx context.Context, r push.BuildRequest) (storepath.Path, error) {
	if err := s.w.do(ctx, s.name, "build-on "+r.Drv.Name()); err != nil {
		return storepath.Path{}, err
	}
	return storepath.Parse(strings.TrimSuffix(r.Drv.String(), ".drv"))
}

func (s *fakeSession) Fetch(ctx context.Context, _ []storepath.Path) error {
	return s.w.do(ctx, s.name, "fetch")
}

func (s *fakeSession) Root(ctx context.Context, _ string, _ storepath.Path) error {
	return s.w.do(ctx, s.name, "root")
}

func (s *fakeSession) Close() error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.again {
		s.host.open--
		return nil
	}
	s.host.closed++
	return nil
}

// end stops the hosts' guards.
func (w *world) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
}

// run deploys all hosts of the world.
func (w *world) run(ctx context.Context, t *testing.T, change func(*Deployer, *Request)) *Report {
	t.Helper()
	d := &Deployer{Backend: w, Plan: w.plan, Connector: w, Reporter: w, Limits: Limits{BatchWindow: 10 * time.Millisecond}}
	request := Request{Action: ActionSwitch, Hosts: slices.Sorted(maps.Keys(w.plan.Hosts)), Owner: "alice@laptop"}
	if change != nil {
		change(d, &request)
	}
	t.Cleanup(w.end)
	report, err := d.Run(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range w.hosts {
		if h.open != 0 {
			t.Errorf("%d connections with %s were left open", h.open, name)
		}
	}
	return report
}

// outcomes maps hosts to their outcomes.
func outcomes(r *Report) map[string]Outcome {
	m := map[string]Outcome{}
	for _, h := range r.Hosts {
		m[h.Host] = h.Outcome
	}
	return m
}
