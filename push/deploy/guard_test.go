package deploy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/guard"
	"fleet/push/proto"
	"fleet/push/transport"
)

// after says something from a moment on.
type after struct{ from time.Time }

func (a *after) passed() bool { return !a.from.IsZero() && !time.Now().Before(a.from) }

// cutBy is a way to a host that is cut as soon as the host has begun to switch.
func cutBy(h *fakeHost, ways ...string) func(string) error {
	return func(way string) error {
		if h.info.Current == h.info.Profile || !slices.Contains(ways, way) {
			return nil
		}
		return &transport.UnreachableError{Host: "a", Address: "a", Kind: transport.UnreachableTimeout, Err: errors.New("no route to host")}
	}
}

// setGuard changes the guard of host a in the plan.
func (w *world) setGuard(change func(*plan.Guard)) {
	h := w.plan.Hosts["a"]
	g := h.Deploy.GuardOf()
	change(&g)
	h.Deploy.Guard = &g
	w.plan.Hosts["a"] = h
}

// guardTest is a deployment to one host on which something goes wrong, or does not.
type guardTest struct {
	action  Action
	world   func(*world)
	request func(*Deployer, *Request)

	outcome Outcome
	code    ExitCode
	verdict Verdict
	// text has to be in the error, did and not in the log of what was done.
	text     string
	did, not []string
	// atMost bounds the time.
	atMost time.Duration
}

func TestGuardedActivations(t *testing.T) {
	for name, test := range map[string]guardTest{
		"a healthy host is confirmed over a connection that is made anew": {
			outcome: OutcomeSwitched, verdict: VerdictPersistent, did: []string{"a again", "a nonce", "a confirm", "a watch"}, atMost: time.Second,
		},
		"a test ends when it is confirmed": {action: ActionTest, outcome: OutcomeTested, verdict: VerdictUntilBoot, did: []string{"a confirm"}},
		"a boot is staged, and nobody is waited for": {
			action: ActionBoot, outcome: OutcomeStaged, verdict: VerdictNextBoot, not: []string{"a again", "a confirm"},
		},
		"a reboot is waited for and confirmed": {
			action: ActionReboot, world: func(w *world) { w.hosts["a"].guarded.down = 5 * time.Minute },
			outcome: OutcomeRebooted, verdict: VerdictPersistent, did: []string{"a confirm"}, atMost: 6 * time.Minute,
		},
		"a reboot that falls back to the old system": {
			action: ActionReboot, world: func(w *world) {
				w.hosts["a"].guarded.boots = func(_, fallback string) string { return fallback }
			},
			outcome: OutcomeRolledBack, code: ExitRolledBack, verdict: VerdictOld, text: "has booted the old system", not: []string{"a confirm"},
		},
		"a host that only says that it has rebooted": {
			action: ActionReboot, world: func(w *world) {
				w.hosts["a"].status = func(s *proto.TxnStatus) { w.hosts["a"].info.BootID = "boot" }
			},
			outcome: OutcomeFailed, code: ExitHostsFailed, text: "has not rebooted",
		},
		"a switch that cuts the network": {
			world:   func(w *world) { w.hosts["a"].guarded.reach = cutBy(w.hosts["a"], "") },
			outcome: OutcomeRolledBack, code: ExitRolledBack, verdict: VerdictOld,
			text: "no confirmation came in time; confirming it failed: ", not: []string{"a confirm"}, atMost: 4 * time.Minute,
		},
		"a switch that cuts only us off, with a vantage": {
			world: func(w *world) {
				w.hosts["a"].guarded.reach = cutBy(w.hosts["a"], "")
				w.setGuard(func(g *plan.Guard) { g.Vantages = []string{"peer"} })
			},
			outcome: OutcomeSwitched, verdict: VerdictPersistent, did: []string{"a again", "a again via peer", "a confirm"}, atMost: time.Minute,
		},
		"a way that swallows connections leaves time for a vantage": {
			world: func(w *world) {
				w.setGuard(func(g *plan.Guard) { g.ConfirmTimeout, g.Vantages = 20, []string{"peer"} })
				w.hook = func(ctx context.Context, host, what string) error {
					if host+" "+what == "a again" {
						<-ctx.Done()
					}
					return ctx.Err()
				}
			},
			outcome: OutcomeSwitched, verdict: VerdictPersistent, did: []string{"a again", "a again via peer", "a confirm"}, atMost: 10 * time.Second,
		},
		"a connection that falls silent is looked at through a vantage": {
			world: func(w *world) {
				w.setGuard(func(g *plan.Guard) { g.ConfirmTimeout, g.Vantages = 20, []string{"peer"} })
				w.hook = func(ctx context.Context, host, what string) error {
					if what := host + " " + what; what == "a again" || what == "a attach" {
						<-ctx.Done()
					}
					return ctx.Err()
				}
			},
			outcome: OutcomeSwitched, verdict: VerdictPersistent, did: []string{"a again via peer", "a confirm"}, atMost: 20 * time.Second,
		},
		"the first vantage cannot reach it either": {
			world: func(w *world) {
				w.hosts["a"].guarded.reach = cutBy(w.hosts["a"], "", "peer")
				w.setGuard(func(g *plan.Guard) { g.Vantages = []string{"peer", "other"} })
			},
			outcome: OutcomeSwitched, verdict: VerdictPersistent, did: []string{"a again via peer", "a again via other", "a confirm"},
		},
		"a host that lets nobody in has no use for a vantage": {
			world: func(w *world) {
				w.hosts["a"].guarded.elevate = func() error { return &push.NoElevationError{Host: "a", User: "admin"} }
				w.setGuard(func(g *plan.Guard) { g.Vantages = []string{"peer"} })
			},
			outcome: OutcomeRolledBack, code: ExitRolledBack, verdict: VerdictOld, text: "become root on", not: []string{"a again via peer", "a nonce"},
		},
		"a host that lets us in after a while": {
			world: func(w *world) {
				late := after{time.Now().Add(100 * time.Second)}
				w.hosts["a"].guarded.elevate = func() error {
					if late.passed() {
						return nil
					}
					return &push.NoElevationError{Host: "a", User: "admin"}
				}
			},
			outcome: OutcomeSwitched, verdict: VerdictPersistent, atMost: 2 * time.Minute,
		},
		"an answer that is lost was an answer all the same": {
			world:   func(w *world) { w.hosts["a"].guarded.loseAnswer = true },
			outcome: OutcomeSwitched, verdict: VerdictPersistent,
		},
		"a connection that breaks during the switch": {
			world: func(w *world) {
				from := time.Now().Add(10 * time.Second)
				w.hosts["a"].guarded.worker = func(string, guard.Verb) int { time.Sleep(time.Minute); return 0 }
				w.hosts["a"].guarded.reach = func(string) error {
					if time.Now().Before(from) || time.Now().After(from.Add(30*time.Second)) {
						return nil
					}
					return &transport.UnreachableError{Host: "a", Kind: transport.UnreachableTimeout, Err: errors.New("cut")}
				}
			},
			outcome: OutcomeSwitched, verdict: VerdictPersistent,
		},
		"units fail, and were well before": {
			world: func(w *world) {
				w.hosts["a"].guarded.worker = func(system string, _ guard.Verb) int {
					if system == toplevel("a", 2) {
						return 4
					}
					return 0
				}
				w.hosts["a"].guarded.judge = func() string { return "web.service has failed" }
			},
			outcome: OutcomeRolledBack, code: ExitRolledBack, verdict: VerdictOld, text: "web.service has failed; the old system runs and boots, and was verified", not: []string{"a again"},
		},
		"units fail that had failed before": {
			world: func(w *world) {
				w.hosts["a"].guarded.worker = func(string, guard.Verb) int { return 4 }
				w.hosts["a"].info.Current = toplevel("a", 1)
			},
			// The commit's own program has to succeed: 4 is none of its codes.
			outcome: OutcomeRolledBack, code: ExitRolledBack, verdict: VerdictOld, text: "switch-to-configuration boot ended with exit code 4",
		},
		"without rollback a failure stays": {
			world:   func(w *world) { w.hosts["a"].guarded.judge = func() string { return "web.service has failed" } },
			request: func(_ *Deployer, r *Request) { r.Guard.NoRollback = true },
			outcome: OutcomeFailed, code: ExitHostsFailed, verdict: VerdictLeft, text: "web.service has failed; the host runs new, boots old",
		},
		"a guard that is off confirms itself": {
			world:   func(w *world) { w.setGuard(func(g *plan.Guard) { g.Enable = false }) },
			outcome: OutcomeSwitched, verdict: VerdictUnguarded, not: []string{"a again", "a confirm"},
		},
		"a rollback that fails is said, and not waited for": {
			world: func(w *world) {
				w.setGuard(func(g *plan.Guard) { g.Reboot = plan.RebootNever })
				w.hosts["a"].guarded.judge = func() string { return "web.service has failed" }
				w.hosts["a"].guarded.worker = func(system string, _ guard.Verb) int {
					if system == toplevel("a", 1) {
						return 1
					}
					return 0
				}
			},
			outcome: OutcomeFailed, code: ExitHostsFailed, verdict: VerdictRetrying, text: "THE ROLLBACK HAS FAILED, and the host goes on trying", atMost: 2 * time.Minute,
		},
		"a rollback that works at the second try": {
			world: func(w *world) {
				tries := 0
				w.setGuard(func(g *plan.Guard) { g.Reboot = plan.RebootNever })
				w.hosts["a"].guarded.judge = func() string { return "web.service has failed" }
				w.hosts["a"].guarded.worker = func(system string, _ guard.Verb) int {
					if system == toplevel("a", 1) {
						tries++
						return max(0, 2-tries)
					}
					return 0
				}
			},
			outcome: OutcomeRolledBack, code: ExitRolledBack, verdict: VerdictOld, text: "web.service has failed",
		},
		"a rollback that reboots": {
			world: func(w *world) {
				w.hosts["a"].guarded.down = time.Minute
				w.hosts["a"].guarded.judge = func() string { return "web.service has failed" }
				w.hosts["a"].guarded.worker = func(system string, _ guard.Verb) int {
					if system == toplevel("a", 1) {
						return 1
					}
					return 0
				}
			},
			outcome: OutcomeRolledBack, code: ExitRolledBack, verdict: VerdictOld, text: "web.service has failed", atMost: 2 * time.Minute,
		},
		"what speaks against it is told before anything is done": {
			world: func(w *world) {
				w.hosts["a"].begin = &push.RefusedError{Host: "a", Findings: []proto.Finding{{Check: "space", Problem: "no room on /boot", Remedy: "nix-collect-garbage"}}}
			},
			outcome: OutcomeFailed, code: ExitHostsFailed, text: "space: no room on /boot", not: []string{"a attach"},
		},
		"a boot that was staged gives way": {
			world: func(w *world) {
				w.hosts["a"].info.Lock = &proto.LockHolder{Owner: "bob@laptop", Txn: "t0"}
				w.hosts["a"].info.Open = &proto.TxnStatus{Txn: "t0", State: proto.TxnStaged, Toplevel: toplevel("a", 7)}
			},
			outcome: OutcomeSwitched, verdict: VerdictPersistent,
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test.run) })
	}
}

func (g guardTest) run(t *testing.T) {
	w := newWorld("a", "peer", "other")
	if g.world != nil {
		g.world(w)
	}
	began := time.Now()
	report := w.run(t.Context(), t, func(d *Deployer, r *Request) {
		r.Hosts = []string{"a"}
		if g.action != "" {
			r.Action = g.action
		}
		if g.request != nil {
			g.request(d, r)
		}
	})
	took := time.Since(began)
	got := report.Hosts[0]
	if got.Outcome != g.outcome || report.ExitCode() != g.code || got.Verdict != g.verdict {
		t.Errorf("got %q, %q, exit %d: %v", got.Outcome, got.Verdict, report.ExitCode(), got.Err)
	}
	if (got.Err == nil) != (g.text == "") || got.Err != nil && !strings.Contains(got.Err.Error(), g.text) {
		t.Errorf("error %v, want %q", got.Err, g.text)
	}
	for _, entry := range g.did {
		if !w.did(entry) {
			t.Errorf("%q was not done: %v", entry, w.log)
		}
	}
	for _, entry := range g.not {
		if w.did(entry) {
			t.Errorf("%q was done: %v", entry, w.log)
		}
	}
	if g.atMost > 0 && took > g.atMost {
		t.Errorf("it took %v", took)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if info := w.hosts["a"].info; g.code == ExitRolledBack && (info.Current != toplevel("a", 1) || info.Profile != toplevel("a", 1) || info.BootDefault != toplevel("a", 1)) {
		t.Errorf("it is not rolled back: %+v", info)
	}
}

func TestChecksOfOthersComeBeforeTheConfirmation(t *testing.T) {
	tcp := "a.example.org:443"
	for name, test := range map[string]struct {
		checks  map[string]plan.HealthCheck
		look    func(time.Duration) string
		peer    func(proto.CheckRequest) string
		outcome Outcome
		text    string
		did     []string
	}{
		"the operator's passes":                {checks: map[string]plan.HealthCheck{"site": {TCP: &tcp, From: "operator"}}, outcome: OutcomeSwitched, did: []string{"a confirm"}},
		"another host's passes":                {checks: map[string]plan.HealthCheck{"site": {TCP: &tcp, From: "peer"}}, outcome: OutcomeSwitched, did: []string{"peer connect", "peer check site", "a confirm"}},
		"the operator's passes after a while":  {checks: map[string]plan.HealthCheck{"site": {TCP: &tcp, From: "operator", Timeout: 60}}, look: func(d time.Duration) string { return map[bool]string{true: "refused"}[d < 50*time.Second] }, outcome: OutcomeSwitched, did: []string{"a confirm"}},
		"the operator's never passes":          {checks: map[string]plan.HealthCheck{"site": {TCP: &tcp, From: "operator"}}, look: func(time.Duration) string { return "refused" }, outcome: OutcomeRolledBack, text: "health check site from operator: refused", did: []string{"a abort"}},
		"another host's never passes":          {checks: map[string]plan.HealthCheck{"site": {TCP: &tcp, From: "peer"}}, peer: func(proto.CheckRequest) string { return "refused" }, outcome: OutcomeRolledBack, text: "health check site from peer: refused", did: []string{"a abort"}},
		"one of a host that the fleet has not": {checks: map[string]plan.HealthCheck{"site": {TCP: &tcp, From: "gone"}}, outcome: OutcomeFailed, text: "the fleet has no such host"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld("a", "peer")
				h := w.plan.Hosts["a"]
				h.Deploy.Health = test.checks
				own := "sshd.service"
				h.Deploy.Health["own"] = plan.HealthCheck{Unit: &own}
				w.plan.Hosts["a"] = h
				w.hosts["peer"].guarded.check = test.peer
				began := time.Now()
				report := w.run(t.Context(), t, func(d *Deployer, r *Request) {
					r.Hosts = []string{"a"}
					d.Look = func(_ context.Context, host, address, name string, check proto.HealthCheck) string {
						if host != "a" || address != "a" || name != "site" || check.TCP != tcp {
							t.Errorf("look at %q %q %q %+v", host, address, name, check)
						}
						if test.look == nil {
							return ""
						}
						return test.look(time.Since(began))
					}
				})
				got := report.Hosts[0]
				if got.Outcome != test.outcome || (got.Err == nil) != (test.text == "") || got.Err != nil && !strings.Contains(got.Err.Error(), test.text) {
					t.Errorf("got %q, %v", got.Outcome, got.Err)
				}
				for _, entry := range test.did {
					if !w.did(entry) {
						t.Errorf("%q was not done: %v", entry, w.log)
					}
				}
				if p := w.hosts["a"].guarded.policy; p != nil {
					if diff := cmp.Diff(map[string]proto.HealthCheck{"own": {Unit: own}}, p.Health); diff != "" {
						t.Errorf("the host is told to make other checks than its own:\n%s", diff)
					}
				}
			})
		})
	}
}

func TestAnInterruptionWhileAHostWaitsLeavesItToItsGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a")
		ctx, cancel := context.WithCancel(t.Context())
		w.hook = func(ctx context.Context, _, what string) error {
			if what == "nonce" {
				cancel()
			}
			return ctx.Err()
		}
		report := w.run(ctx, t, nil)
		got := report.Hosts[0]
		if got.Outcome != OutcomeDetached || report.ExitCode() != ExitInterrupted || !strings.Contains(got.Err.Error(), "fleet confirm a txn-a") {
			t.Errorf("got %q, exit %d, %v", got.Outcome, report.ExitCode(), got.Err)
		}
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if info := w.hosts["a"].info; info.Current != toplevel("a", 1) || info.Profile != toplevel("a", 1) {
			t.Errorf("its guard has not gone back: %+v", info)
		}
	})
}

func TestThePolicyIsThatOfThePlanAndOfTheRun(t *testing.T) {
	minute, unit := time.Minute, "db.service"
	d := plan.Deploy{Drain: []string{"/bin/drain", "-f"}, Health: map[string]plan.HealthCheck{"db": {Unit: &unit}}}
	specs := &plan.Specs{Health: map[string]plan.HealthCheck{"db": {Command: []string{"false"}}, "own": {HTTP: &plan.HTTPCheck{URL: "http://localhost/"}, From: "host", Timeout: 9}}}
	got := policyOf(d, specs, GuardOverrides{NoRollback: true, SkipChecks: []string{"space", "jobs"}, Confirm: &minute})
	want := proto.GuardPolicy{
		SwitchSeconds: 900, RollbackSeconds: 600, ConfirmSeconds: 60, BootConfirmSeconds: 600, SettleSeconds: 10, Reboot: "if-safe", NoRollback: true,
		Skip: []string{"jobs", "space"}, IgnoreUnits: []string{}, Drain: []string{"/bin/drain", "-f"}, Health: map[string]proto.HealthCheck{
			"db": {Unit: unit}, "own": {HTTP: &proto.HTTPCheck{URL: "http://localhost/"}, From: "host", TimeoutSeconds: 9},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	off := plan.DefaultGuard()
	off.Enable = false
	if got := policyOf(plan.Deploy{Guard: &off}, nil, GuardOverrides{}); !got.NoRollback || !got.SelfConfirm {
		t.Errorf("without a guard: %+v", got)
	}
	defaults := proto.DefaultGuardPolicy()
	if diff := cmp.Diff(defaults, policyOf(plan.Deploy{}, nil, GuardOverrides{}), cmp.Comparer(func(a, b []string) bool { return slices.Equal(a, b) })); diff != "" {
		t.Errorf("the plan's defaults are not the protocol's:\n%s", diff)
	}
}

func TestRollbacksGoToAnotherSystem(t *testing.T) {
	top := func(n int) string { return toplevel("a", n) }
	all := []proto.Generation{{Number: 3, Toplevel: top(1), Current: true}, {Number: 2, Toplevel: top(1)}, {Number: 1, Toplevel: top(0), Specialisations: []string{"dark"}}}
	for name, test := range map[string]struct {
		to          int
		generations []proto.Generation
		spec        string
		new         string
		outcome     Outcome
		text        string
	}{
		"to the newest one before it that is another system": {generations: all, new: top(0), outcome: OutcomeReverted},
		"to the one that is named":                           {to: 1, generations: all, new: top(0), outcome: OutcomeReverted},
		"to one with the specialisation":                     {generations: all, spec: "dark", new: top(0), outcome: OutcomeReverted},
		"to one without the specialisation":                  {generations: all, spec: "light", new: top(0), outcome: OutcomeReverted},
		"to what runs and boots already":                     {to: 2, generations: all, new: top(1), outcome: OutcomeUnchanged},
		"there is none that is named":                        {to: 9, generations: all, outcome: OutcomeFailed, text: "it has no generation 9"},
		"there is none before it":                            {generations: all[:2], outcome: OutcomeFailed, text: "no older generation"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld("a")
				host := w.hosts["a"]
				host.generations, host.info.Generation = test.generations, 3
				if test.spec != "" {
					h := w.plan.Hosts["a"]
					h.Deploy.Specialisation = &test.spec
					w.plan.Hosts["a"] = h
				}
				report := w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Action, r.To = ActionRollback, test.to })
				got := report.Hosts[0]
				if got.Outcome != test.outcome || got.New != test.new || (got.Err == nil) != (test.text == "") || got.Err != nil && !strings.Contains(got.Err.Error(), test.text) {
					t.Errorf("got %q, %q, %v", got.Outcome, got.New, got.Err)
				}
				for _, entry := range []string{"a evaluate", "a build", "a push"} {
					if w.did(entry) {
						t.Errorf("%q was done", entry)
					}
				}
				if test.outcome == OutcomeReverted && !w.did("a confirm") {
					t.Error("it was not guarded")
				}
				if len(host.txns) > 0 && (host.txns[0].request.Action != proto.ActionSwitch || (host.txns[0].request.Specialisation == "dark") != (test.spec == "dark")) {
					t.Errorf("request %+v", host.txns[0].request)
				}
			})
		})
	}
}

func TestManyHostsAreConfirmedAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "c", "d")
		w.hosts["b"].guarded.judge = func() string { return "b is ill" }
		w.hosts["c"].guarded.reach = cutBy(w.hosts["c"], "")
		report := w.run(t.Context(), t, nil)
		want := map[string]Outcome{"a": OutcomeSwitched, "b": OutcomeRolledBack, "c": OutcomeRolledBack, "d": OutcomeSwitched}
		if diff := cmp.Diff(want, outcomes(report)); diff != "" {
			t.Error(diff)
		}
		if report.ExitCode() != ExitRolledBack {
			t.Errorf("exit %d", report.ExitCode())
		}
	})
}
