package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
)

func TestEveryActionDoesWhatItSaysAndNoMore(t *testing.T) {
	for _, test := range []struct {
		action  Action
		outcome Outcome
		log     []string
	}{
		{ActionBuild, OutcomeBuilt, []string{"a evaluate", "a build"}},
		{ActionPush, OutcomePushed, []string{"a connect", "a evaluate", "a build", "a push"}},
		{ActionDryActivate, OutcomeDryActivated, []string{"a connect", "a evaluate", "a build", "a push", "a preflight", "a refresh", "a begin", "a attach"}},
		{ActionTest, OutcomeTested, []string{"a connect", "a evaluate", "a build", "a push", "a preflight", "a refresh", "a begin", "a attach", "a again", "a status", "a nonce", "a confirm", "a watch"}},
		{ActionBoot, OutcomeStaged, []string{"a connect", "a evaluate", "a build", "a push", "a preflight", "a refresh", "a begin", "a attach"}},
		{ActionReboot, OutcomeRebooted, []string{"a connect", "a evaluate", "a build", "a push", "a preflight", "a refresh", "a begin", "a attach", "a again", "a status", "a nonce", "a confirm", "a watch"}},
		{ActionSwitch, OutcomeSwitched, []string{"a connect", "a evaluate", "a build", "a push", "a preflight", "a refresh", "a begin", "a attach", "a again", "a status", "a nonce", "a confirm", "a watch"}},
	} {
		t.Run(string(test.action), func(t *testing.T) {
			w := newWorld("a")
			report := w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Action = test.action })
			if got := report.Hosts[0]; got.Outcome != test.outcome || got.Err != nil || report.ExitCode() != 0 {
				t.Errorf("got %q, %v, exit %d", got.Outcome, got.Err, report.ExitCode())
			}
			if diff := cmp.Diff(test.log, w.log); diff != "" {
				t.Error(diff)
			}
			if closed := w.hosts["a"].closed; (closed > 0) != (test.action != ActionBuild) {
				t.Errorf("the session was closed %d times", closed)
			}
		})
	}
}

func TestTheReportSaysWhatChanged(t *testing.T) {
	w := newWorld("a")
	got := w.run(t.Context(), t, nil).Hosts[0]
	for i := range got.Steps {
		got.Steps[i].Duration = 0
	}
	want := HostReport{Host: "a", Outcome: OutcomeSwitched, Verdict: VerdictPersistent, Paths: 3, NarBytes: 300, WireBytes: 100, Generation: 2, Old: toplevel("a", 1), New: toplevel("a", 2), Txn: "txn-a",
		Steps: []StepTime{{Step: plan.StepConnect}, {Step: plan.StepEvaluate}, {Step: plan.StepBuild}, {Step: plan.StepPush}, {Step: plan.StepActivate}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var logged []string
	for _, e := range w.events {
		if e.Kind == plan.EventLog {
			logged = append(logged, e.Message)
		}
	}
	if diff := cmp.Diff([]string{"activating the configuration", "setting up /etc"}, logged); diff != "" {
		t.Error(diff)
	}
}

func TestAnUnchangedHostIsLeftAlone(t *testing.T) {
	w := newWorld("a")
	w.hosts["a"].info.Current, w.hosts["a"].info.Profile, w.hosts["a"].info.BootDefault = toplevel("a", 2), toplevel("a", 2), toplevel("a", 2)
	report := w.run(t.Context(), t, nil)
	if got := report.Hosts[0].Outcome; got != OutcomeUnchanged || report.ExitCode() != 0 {
		t.Errorf("got %q", got)
	}
	if diff := cmp.Diff([]string{"a connect", "a evaluate"}, w.log); diff != "" {
		t.Error(diff)
	}
}

func TestAHostThatIsPartlyThereGetsTheRest(t *testing.T) {
	w := newWorld("a")
	w.hosts["a"].info.Current = toplevel("a", 2) // as after "test"
	if got := w.run(t.Context(), t, nil).Hosts[0].Outcome; got != OutcomeSwitched {
		t.Errorf("got %q", got)
	}
}

func TestASpecialisationIsUnchangedOnlyWhereItRuns(t *testing.T) {
	dark, missing := "dark", "light"
	w := newWorld("a", "b")
	for name, want := range map[string]*string{"a": &dark, "b": &missing} {
		h := w.plan.Hosts[name]
		h.Deploy.Specialisation = want
		w.plan.Hosts[name] = h
	}
	info := &w.hosts["a"].info
	info.Current, info.Profile, info.BootDefault = "/nix/store/dark", toplevel("a", 2), toplevel("a", 2)
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) {
		d.Specialisation = func(top, name string) (string, error) { return "/nix/store/" + name, nil }
	})
	if diff := cmp.Diff(map[string]Outcome{"a": OutcomeUnchanged, "b": OutcomeFailed}, outcomes(report)); diff != "" {
		t.Error(diff)
	}
	var missed *SpecialisationError
	if !errors.As(report.Err(), &missed) || missed.Host != "b" || !strings.Contains(missed.Hint(), "dark") {
		t.Errorf("got %v", report.Err())
	}
}

func TestAHostThatFailsStopsNoOther(t *testing.T) {
	unreachable := errors.New("no route")
	w := newWorld("down", "broken", "full", "badunit", "unevaluated", "fine")
	w.hosts["down"].connect = unreachable
	w.evalErr["unevaluated"] = errors.New("attribute missing")
	w.buildErr["broken"] = errors.New("build failed")
	w.hosts["full"].push = &push.StoreFullError{Host: "full"}
	w.hosts["badunit"].status = func(s *proto.TxnStatus) {
		s.State, s.Step, s.ExitCode, s.Profile, s.BootDefault = proto.TxnFailed, "test", 4, toplevel("badunit", 1), toplevel("badunit", 1)
		s.FailedUnits = []proto.FailedUnit{{Name: "web.service", Log: []string{"boom"}}}
	}
	report := w.run(t.Context(), t, nil)
	if diff := cmp.Diff(map[string]Outcome{"down": OutcomeFailed, "broken": OutcomeFailed, "full": OutcomeFailed, "badunit": OutcomeFailed, "unevaluated": OutcomeFailed, "fine": OutcomeSwitched}, outcomes(report)); diff != "" {
		t.Error(diff)
	}
	if report.ExitCode() != ExitHostsFailed {
		t.Errorf("exit %d", report.ExitCode())
	}
	steps := map[string]plan.Step{}
	for _, h := range report.Hosts {
		var failed *HostError
		if errors.As(h.Err, &failed) {
			steps[failed.Host] = failed.Step
		}
		if h.Host == "badunit" && (!h.RunsNewBootsOld || len(h.FailedUnits) != 1) {
			t.Errorf("badunit: %+v", h)
		}
	}
	if diff := cmp.Diff(map[string]plan.Step{"down": plan.StepConnect, "unevaluated": plan.StepEvaluate, "broken": plan.StepBuild, "full": plan.StepPush, "badunit": plan.StepActivate}, steps); diff != "" {
		t.Error(diff)
	}
	for _, batch := range w.batches {
		if slices.Contains(batch, "down") {
			t.Error("time was spent on evaluating a host that cannot be reached")
		}
	}
	if w.did("down build") || w.did("unevaluated build") {
		t.Error("time was spent on building for a host that had failed")
	}
}

func TestABackendThatFailsAsAWholeFailsEachHost(t *testing.T) {
	w := newWorld("a", "b")
	w.recordsErr = errors.New("nix is not installed")
	report := w.run(t.Context(), t, nil)
	if report.ExitCode() != ExitHostsFailed || strings.Count(report.Err().Error(), "nix is not installed") != 2 {
		t.Errorf("got %v", report.Err())
	}
}

func TestHostsThatConnectTogetherAreEvaluatedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "c", "slow")
		w.hook = func(_ context.Context, host, what string) error {
			if what == "connect" && host == "slow" {
				time.Sleep(time.Minute)
			}
			return nil
		}
		w.run(t.Context(), t, nil)
		if diff := cmp.Diff([][]string{{"a", "b", "c"}, {"slow"}}, w.batches); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTheLastHostThatCanComeEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "down")
		w.hosts["down"].connect = errors.New("refused")
		began := time.Now()
		w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Limits.BatchWindow = time.Hour })
		if took := time.Since(began); took > 0 {
			t.Errorf("it waited for %v", took)
		}
	})
}

func TestALockOfAnotherOperatorIsSeenBeforeTimeIsSpent(t *testing.T) {
	w := newWorld("a", "b")
	w.hosts["a"].info.Lock = &proto.LockHolder{Owner: "bob@laptop", Txn: "t0"}
	report := w.run(t.Context(), t, nil)
	if diff := cmp.Diff(map[string]Outcome{"a": OutcomeLocked, "b": OutcomeSwitched}, outcomes(report)); diff != "" {
		t.Error(diff)
	}
	if report.ExitCode() != ExitLocked || w.did("a build") {
		t.Errorf("exit %d, log %v", report.ExitCode(), w.log)
	}
	w.log = nil
	report = w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Action = ActionPush })
	if report.ExitCode() != ExitOK {
		t.Errorf("a push needs no lock, exit %d", report.ExitCode())
	}
}

func TestALockThatIsTakenInBetweenIsSeenToo(t *testing.T) {
	for name, change := range map[string]func(*fakeHost){
		"by begin": func(h *fakeHost) { h.begin = &push.LockedError{Host: "a"} },
		"by the transaction": func(h *fakeHost) {
			h.status = func(s *proto.TxnStatus) {
				s.State, s.Step, s.Lock = proto.TxnFailed, "lock", &proto.LockHolder{Owner: "bob"}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a")
			change(w.hosts["a"])
			if report := w.run(t.Context(), t, nil); report.ExitCode() != ExitLocked {
				t.Errorf("exit %d, %v", report.ExitCode(), report.Err())
			}
		})
	}
}

func TestWithoutRootNothingIsPushedThatCannotBeActivated(t *testing.T) {
	w := newWorld("a")
	w.hosts["a"].info.Root = false
	report := w.run(t.Context(), t, nil)
	var refused *NotRootError
	if report.ExitCode() != ExitHostsFailed || !errors.As(report.Err(), &refused) || w.did("a build") || w.did("a push") {
		t.Errorf("exit %d, %v, %v", report.ExitCode(), report.Err(), w.log)
	}
	if report := w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Action = ActionPush }); report.ExitCode() != ExitOK {
		t.Errorf("a push needs no root: %v", report.Err())
	}
}

func TestAHostThatRebootedDuringTheActivationHasFailed(t *testing.T) {
	w := newWorld("a")
	w.hook = func(_ context.Context, _, what string) error {
		if what == "attach" {
			return &push.AgentError{Host: "a", Method: proto.MethodAttach, Code: proto.CodeNotFound, Message: "transaction is not known"}
		}
		return nil
	}
	report := w.run(t.Context(), t, nil)
	if report.ExitCode() != ExitHostsFailed || report.Hosts[0].Outcome != OutcomeFailed || report.Hosts[0].Txn != "" {
		t.Errorf("exit %d, %+v", report.ExitCode(), report.Hosts[0])
	}
	var failed *ActivationError
	if err := report.Err(); !errors.As(err, &failed) || !strings.Contains(err.Error(), "rebooted during the activation") || !strings.Contains(err.Error(), "nixos-a-1") {
		t.Errorf("error %v", err)
	} else if hint := failed.Hint(); strings.Contains(hint, "attach") {
		t.Errorf("hint %q", hint)
	}
}

func TestBuildsOnHosts(t *testing.T) {
	w := newWorld("a", "b", "builder", "bystander")
	for name, on := range map[string]string{"a": "target", "b": "builder", "builder": "builder"} {
		h := w.plan.Hosts[name]
		h.Deploy.BuildOn = on
		w.plan.Hosts[name] = h
	}
	report := w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Hosts = []string{"a", "b"} })
	if report.ExitCode() != 0 {
		t.Fatal(report.Err())
	}
	for _, entry := range []string{"a build-on nixos-a-2.drv", "builder build-on nixos-b-2.drv", "builder fetch", "b build", "b push"} {
		if !w.did(entry) {
			t.Errorf("%q is missing in %v", entry, w.log)
		}
	}
	if w.did("a build") || w.did("a fetch") || w.did("bystander connect") {
		t.Errorf("too much was done: %v", w.log)
	}
	if n := strings.Count(strings.Join(w.log, "\n")+"\n", "builder connect\n"); n != 1 {
		t.Errorf("%d connections to the builder", n)
	}
	if w.hosts["builder"].closed == 0 {
		t.Error("the builder's session was not closed")
	}
}

func TestFailFastStopsTheOthersBeforeTheirActivation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("active", "bad", "late")
		w.hook = func(ctx context.Context, host, what string) error {
			var wait time.Duration
			switch host + " " + what {
			case "active attach":
				wait = 150 * time.Second
			case "bad build":
				wait = time.Minute
			case "late build":
				wait = 2 * time.Minute
			}
			select {
			case <-time.After(wait):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		w.buildErr["bad"] = errors.New("boom")
		report := w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.FailFast = true })
		if diff := cmp.Diff(map[string]Outcome{"active": OutcomeSwitched, "bad": OutcomeFailed, "late": OutcomeCancelled}, outcomes(report)); diff != "" {
			t.Error(diff)
		}
		if w.did("late push") || report.ExitCode() != ExitHostsFailed {
			t.Errorf("exit %d, log %v", report.ExitCode(), w.log)
		}
	})
}

func TestItAsksOnceAndOnlyWhenMoreThanOneHostChanges(t *testing.T) {
	for name, test := range map[string]struct {
		unchanged, down []string
		answer          bool
		asked           []string
		want            map[string]Outcome
		code            ExitCode
	}{
		"yes":                 {nil, nil, true, []string{"a", "b", "c"}, map[string]Outcome{"a": OutcomeSwitched, "b": OutcomeSwitched, "c": OutcomeSwitched}, 0},
		"no":                  {nil, nil, false, []string{"a", "b", "c"}, map[string]Outcome{"a": OutcomeDeclined, "b": OutcomeDeclined, "c": OutcomeDeclined}, 1},
		"one is unchanged":    {[]string{"b"}, nil, true, []string{"a", "c"}, map[string]Outcome{"a": OutcomeSwitched, "b": OutcomeUnchanged, "c": OutcomeSwitched}, 0},
		"one fails":           {nil, []string{"c"}, true, []string{"a", "b"}, map[string]Outcome{"a": OutcomeSwitched, "b": OutcomeSwitched, "c": OutcomeFailed}, 3},
		"only one is left":    {[]string{"b"}, []string{"c"}, false, nil, map[string]Outcome{"a": OutcomeSwitched, "b": OutcomeUnchanged, "c": OutcomeFailed}, 3},
		"none is left at all": {[]string{"a", "b", "c"}, nil, false, nil, map[string]Outcome{"a": OutcomeUnchanged, "b": OutcomeUnchanged, "c": OutcomeUnchanged}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a", "b", "c")
			for _, host := range test.unchanged {
				top := toplevel(host, 2)
				w.hosts[host].info = proto.HostInfo{Current: top, Profile: top, BootDefault: top}
			}
			for _, host := range test.down {
				w.hosts[host].connect = errors.New("down")
			}
			var asked [][]string
			report := w.run(t.Context(), t, func(_ *Deployer, r *Request) {
				r.Confirm = func(_ context.Context, changes []Change) (bool, error) {
					var names []string
					for _, c := range changes {
						names = append(names, c.Host)
						if c.Old != toplevel(c.Host, 1) || c.New != toplevel(c.Host, 2) {
							t.Errorf("change %+v", c)
						}
						if w.did(c.Host + " begin") {
							t.Errorf("%s was activated before it was asked", c.Host)
						}
					}
					asked = append(asked, names)
					return test.answer, nil
				}
			})
			var want [][]string
			if test.asked != nil {
				want = [][]string{test.asked}
			}
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.want, outcomes(report)); diff != "" {
				t.Error(diff)
			}
			if report.ExitCode() != test.code {
				t.Errorf("exit %d, want %d", report.ExitCode(), test.code)
			}
		})
	}
}

func TestARequestThatMakesNoSenseIsRefused(t *testing.T) {
	w := newWorld("a")
	d := &Deployer{Backend: w, Plan: w.plan, Connector: w, Reporter: w}
	for name, request := range map[string]Request{
		"action": {Action: "repave", Hosts: []string{"a"}},
		"host":   {Action: ActionSwitch, Hosts: []string{"z"}},
	} {
		if _, err := d.Run(t.Context(), request); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestEveryStepThatBeginsEnds(t *testing.T) {
	w := newWorld("a", "down", "broken")
	w.hosts["down"].connect = errors.New("refused")
	w.buildErr["broken"] = errors.New("boom")
	w.run(t.Context(), t, nil)
	open := map[string]int{}
	for _, e := range w.events {
		key := fmt.Sprint(e.Host, " ", e.Step)
		switch e.Kind {
		case plan.EventStarted:
			open[key]++
		case plan.EventDone, plan.EventFailed:
			open[key]--
		}
		if e.Time.IsZero() {
			t.Errorf("%s has no time", key)
		}
	}
	for key, n := range open {
		if n != 0 {
			t.Errorf("%s is open %d times", key, n)
		}
	}
}

func TestOpenEmitsThePlansWarnings(t *testing.T) {
	w := newWorld("a")
	w.plan.Warnings = []string{"two hosts share an address"}
	if _, p, err := Open(t.Context(), w, w); err != nil || p != w.plan {
		t.Fatal(err)
	}
	var kinds []plan.EventKind
	for _, e := range w.events {
		kinds = append(kinds, e.Kind)
	}
	if diff := cmp.Diff([]plan.EventKind{plan.EventStarted, plan.EventWarning, plan.EventDone}, kinds); diff != "" {
		t.Error(diff)
	}
}

var _ evaluator.Backend = (*world)(nil)
