package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fleet/closure/run"
	"fleet/push/health"
	"fleet/push/proto"
)

func listenSomewhere(t *testing.T) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

// fakeManager is a service manager whose units are what a test says, at a time since it was made.
type fakeManager struct {
	Units
	mu      sync.Mutex
	begun   time.Time
	units   func(since time.Duration) map[string]unitState
	counts  func(since time.Duration) map[string]uint32
	more    map[string]unitFacts
	started []string
	ran     []Unit
	program func(since time.Duration) error
	away    error
}

func (m *fakeManager) since() time.Duration { return time.Since(m.begun) }

func (m *fakeManager) list(context.Context) (map[string]unitState, error) {
	if m.away != nil {
		return nil, m.away
	}
	return m.units(m.since()), nil
}

func (m *fakeManager) restarts(context.Context, []string) (map[string]uint32, error) {
	if m.counts == nil {
		return nil, nil
	}
	return m.counts(m.since()), nil
}

func (m *fakeManager) facts(_ context.Context, name string) (unitFacts, error) {
	f := m.more[name]
	f.Found, f.State = name, m.units(m.since())[name]
	if f.State.Load == "" {
		f.State.Load, f.State.Active = "not-found", "inactive"
	}
	return f, nil
}

func (m *fakeManager) start(_ context.Context, names []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started = append(m.started, names...)
	return nil
}

func (m *fakeManager) check(_ context.Context, unit Unit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ran = append(m.ran, unit)
	return m.program(m.since())
}

func (m *fakeManager) clear(context.Context, string) error { return nil }

func (m *fakeManager) listens(context.Context, []string) ([]string, error) {
	return []string{"[::]:2222", "/run/x"}, nil
}

// examination is a host with a fakeManager, and the log of its examination.
type examination struct {
	host    *Host
	manager *fakeManager
	trial   Trial
	mu      sync.Mutex
	log     []string
}

func examine(t *testing.T, units func(time.Duration) map[string]unitState) *examination {
	t.Helper()
	m := &fakeManager{begun: time.Now(), units: units}
	e := &examination{manager: m}
	e.host = &Host{Run: t.TempDir(), Units: m, Runner: run.RunnerFunc(func(_ context.Context, cmd run.Cmd) error {
		_, err := cmd.Stdout.Write([]byte("\x1b[31mreason\x1b[0m\n"))
		return err
	})}
	e.trial = Trial{Toplevel: t.TempDir(), Log: func(line string) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.log = append(e.log, line)
	}}
	e.trial.Policy.SettleSeconds = 10
	return e
}

// verdict runs the examination and says how long it took.
func (e *examination) verdict(t *testing.T) (Verdict, time.Duration) {
	t.Helper()
	begun := time.Now()
	v := e.host.Examine(t.Context(), e.trial)
	return v, time.Since(begun)
}

func always(units map[string]unitState) func(time.Duration) map[string]unitState {
	return func(time.Duration) map[string]unitState { return units }
}

func TestAQuietHostSettlesEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, always(map[string]unitState{"a.service": up(), "b.service": looping(), "c.service": starting()}))
		e.trial.Baseline = Baseline{Active: []string{"a.service"}, Failed: []string{"b.service"}}
		e.trial.Policy.IgnoreUnits = []string{"c.*"}
		e.trial.Exit = 4
		if v, took := e.verdict(t); len(v.Failures) > 0 || took > 1500*time.Millisecond {
			t.Errorf("%+v after %s", v, took)
		}
		if !strings.Contains(strings.Join(e.log, "\n"), "none that counts") {
			t.Errorf("log: %q", e.log)
		}
		e.trial.Policy.SettleSeconds = 0
		if v, took := e.verdict(t); len(v.Failures) > 0 || took > 0 {
			t.Errorf("without settling: %+v after %s", v, took)
		}
	})
}

func TestUnitsMayTakeAWhileToSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, func(since time.Duration) map[string]unitState {
			if since < 4*time.Second {
				return map[string]unitState{"a.service": starting()}
			}
			return map[string]unitState{"a.service": up()}
		})
		e.trial.Baseline.Active = []string{"a.service"}
		if v, took := e.verdict(t); len(v.Failures) > 0 || took < 4500*time.Millisecond || took > 6*time.Second {
			t.Errorf("%+v after %s", v, took)
		}
	})
}

func TestAJobThatNeverEndsIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, always(map[string]unitState{"a.service": starting()}))
		if v, took := e.verdict(t); len(v.Failures) > 0 || took < 10*time.Second || took > 11*time.Second {
			t.Errorf("%+v after %s", v, took)
		}
		if !slices.Contains(e.log, "not settled within 10s: a job of a.service is queued") {
			t.Errorf("log: %q", e.log)
		}
	})
}

func TestAFailedUnitIsNamedWithItsLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, always(map[string]unitState{"a.service": broken(), "b.service": broken(), "sshd.service": down(), "multi-user.target": up()}))
		e.trial.Baseline = Baseline{Failed: []string{"b.service"}, Active: []string{"sshd.service"}}
		e.manager.more = map[string]unitFacts{
			"a.service":    {Result: "exit-code", Status: 7},
			"sshd.service": {Result: "success", Type: "notify", PulledIn: []string{"multi-user.target"}},
		}
		v, took := e.verdict(t)
		if got := strings.Join(v.Failures, "; "); got != "unit sshd.service ran before and does not run; unit a.service has failed (exit status 7)" {
			t.Error(got)
		}
		if len(v.Units) != 2 || v.Units[1].Name != "a.service" || !slices.Equal(v.Units[1].Log, []string{"reason"}) {
			t.Errorf("%+v", v.Units)
		}
		if took > 2*time.Second {
			t.Errorf("after %s", took)
		}
		if !slices.Contains(e.log, "failed before and still: b.service") {
			t.Errorf("log: %q", e.log)
		}
	})
}

func TestAUnitThatFailsAgainAndAgainIsSeenInTime(t *testing.T) {
	for name, tc := range map[string]struct {
		counts func(time.Duration) map[string]uint32
		want   string
	}{
		"it was started again once": {func(time.Duration) map[string]uint32 { return map[string]uint32{"a.service": 1} }, ""},
		"every five seconds": {func(since time.Duration) map[string]uint32 {
			return map[string]uint32{"a.service": 1 + uint32(since/(5*time.Second))}
		}, "started again 3 times"},
		"before, and not since": {nil, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := examine(t, always(map[string]unitState{"a.service": up()}))
			e.trial.Baseline.Active = []string{"a.service"}
			if tc.counts == nil {
				e.trial.Baseline.Restarts = map[string]uint32{"a.service": 3}
			}
			e.manager.counts = tc.counts
			v, took := e.verdict(t)
			if got := strings.Join(v.Failures, "; "); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("%s: %q", name, got)
			}
			if tc.counts != nil && took < 10*time.Second {
				t.Errorf("%s: looked for %s only", name, took)
			}
		})
	}
}

func TestASystemdThatDoesNotAnswerIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, nil)
		e.manager.away = errors.New("systemd does not answer")
		if v, _ := e.verdict(t); len(v.Failures) != 1 {
			t.Errorf("%+v", v)
		}
	})
}

func TestChecksOfPlanAndSystemHaveToPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, always(map[string]unitState{"a.service": up(), "b.service": down()}))
		write(t, filepath.Join(e.trial.Toplevel, "etc/fleet/health.json"), `{"a": {"unit": "none.service"}, "b": {"unit": "b.service", "timeoutSeconds": 5}, "far": {"tcp": "x:1", "from": "operator"}}`)
		e.trial.Policy.Health = map[string]proto.HealthCheck{"a": {Unit: "a.service"}, "c": {Command: []string{"/bin/check"}, TimeoutSeconds: 20}}
		e.trial.Dir = e.host.Run
		e.manager.program = func(since time.Duration) error {
			if since < 8*time.Second {
				return errors.New("not yet")
			}
			return nil
		}
		v, took := e.verdict(t)
		if got := strings.Join(v.Failures, "; "); !strings.HasPrefix(got, `health check "b" (unit b.service): it is inactive (dead); it was tried for`) || len(v.Failures) != 1 {
			t.Error(got)
		}
		if took > 15*time.Second {
			t.Errorf("after %s", took)
		}
		for _, want := range []string{
			"health checks of the plan, instead of the system's of the same name: a", `health check "a" (unit a.service) passed after`,
			`health check "c" (command /bin/check) passed after`,
		} {
			if !strings.Contains(strings.Join(e.log, "\n"), want) {
				t.Errorf("the log lacks %q: %q", want, e.log)
			}
		}
		if u := e.manager.ran[0]; u.Name != "fleet-health-c.service" || u.Log != filepath.Join(e.host.Run, "check-c.log") || u.MaxRuntime > 20*time.Second || !u.Standalone {
			t.Errorf("%+v", u)
		}
		if limit := e.host.TrialTime(e.trial); limit < 50*time.Second || limit > 2*time.Minute {
			t.Errorf("limit: %s", limit)
		}
	})
}

func TestChecksThatCannotBeReadAreAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, always(nil))
		write(t, filepath.Join(e.trial.Toplevel, "etc/fleet/health.json"), `{"a": {}}`)
		if v, _ := e.verdict(t); len(v.Failures) != 1 || !strings.Contains(v.Failures[0], "exactly one") {
			t.Errorf("%+v", v)
		}
		if v := e.host.Watch(t.Context(), e.trial); len(v.Failures) != 1 {
			t.Errorf("%+v", v)
		}
	})
}

func TestAHostHasToStayHealthy(t *testing.T) {
	passing := func(time.Duration) error { return nil }
	for name, tc := range map[string]struct {
		units   func(time.Duration) map[string]unitState
		counts  func(time.Duration) map[string]uint32
		program func(time.Duration) error
		want    string
		took    time.Duration
	}{
		"it does": {always(map[string]unitState{"a.service": up()}), nil, passing, "", 31 * time.Second},
		"a unit fails": {func(since time.Duration) map[string]unitState {
			if since < 20*time.Second {
				return map[string]unitState{"a.service": up()}
			}
			return map[string]unitState{"a.service": broken()}
		}, nil, passing, "unit a.service has failed", 20 * time.Second},
		"a unit is started again": {always(map[string]unitState{"a.service": up()}), func(since time.Duration) map[string]uint32 {
			if since < 20*time.Second {
				return nil
			}
			return map[string]uint32{"a.service": 1}
		}, passing, "unit a.service was started again once", 20 * time.Second},
		"a check fails": {always(map[string]unitState{"a.service": up()}), nil, func(since time.Duration) error {
			if since < 20*time.Second {
				return nil
			}
			return errors.New("no more")
		}, `health check "c" (command /x): no more`, 20 * time.Second},
		"a check cannot be made for a moment": {always(map[string]unitState{"a.service": up()}), nil, func(since time.Duration) error {
			if since < 15*time.Second || since > 20*time.Second {
				return nil
			}
			return &health.UnknownError{Err: errors.New("systemd is away")}
		}, "", 31 * time.Second},
		"a check cannot be made any more": {always(map[string]unitState{"a.service": up()}), nil, func(since time.Duration) error {
			if since < 5*time.Second {
				return nil
			}
			return &health.UnknownError{Err: errors.New("systemd is away")}
		}, "systemd is away", 24 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := examine(t, tc.units)
				e.trial.Baseline.Active = []string{"a.service"}
				e.trial.Policy.SoakSeconds = 30
				e.trial.Policy.Health = map[string]proto.HealthCheck{"c": {Command: []string{"/x"}}}
				e.manager.program, e.manager.counts = tc.program, tc.counts
				v, took := e.verdict(t)
				if got := strings.Join(v.Failures, "; "); got != tc.want && (tc.want == "" || !strings.Contains(got, tc.want)) {
					t.Errorf("%q", got)
				}
				if took < tc.took-2*time.Second || took > tc.took+4*time.Second {
					t.Errorf("after %s", took)
				}
			})
		})
	}
}

func TestWatchEndsWithItsContextOrTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, func(since time.Duration) map[string]unitState {
			if since < 3*time.Minute {
				return map[string]unitState{"a.service": up()}
			}
			return map[string]unitState{"a.service": looping()}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if v := e.host.Watch(ctx, e.trial); len(v.Failures) > 0 || e.manager.since() != time.Minute {
			t.Errorf("%+v after %s", v, e.manager.since())
		}
		v := e.host.Watch(t.Context(), e.trial)
		if len(v.Failures) != 1 || len(v.Units) != 1 || e.manager.since() > 3*time.Minute+2*time.Second {
			t.Errorf("%+v after %s", v, e.manager.since())
		}
	})
}

func TestAnOldSystemsUnitsAreStartedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := examine(t, nil)
		e.manager.units = func(time.Duration) map[string]unitState {
			units := map[string]unitState{"multi-user.target": up(), "a.service": down(), "b.service": broken(), "c.service": down(), "d.service": up(), "e.service": down()}
			if len(e.manager.started) > 0 {
				units["a.service"] = up()
			}
			return units
		}
		wanted := unitFacts{Type: "simple", Result: "success", PulledIn: []string{"multi-user.target"}}
		e.manager.more = map[string]unitFacts{"a.service": wanted, "c.service": {Type: "oneshot", Result: "success"}, "e.service": wanted}
		b := Baseline{Active: []string{"a.service", "b.service", "c.service", "d.service", "e.service"}}
		missing := e.host.RestoreUnits(t.Context(), b, []string{"e.*"}, e.trial.Log)
		if !slices.Equal(missing, []string{"b.service"}) || !slices.Equal(e.manager.started, []string{"a.service", "b.service"}) {
			t.Errorf("missing %v, started %v", missing, e.manager.started)
		}
		if !slices.Contains(e.log, "start again: a.service, b.service") {
			t.Errorf("log: %q", e.log)
		}
	})
}

func TestWhatIsUpBetweenTwoFailuresHasFailedBefore(t *testing.T) {
	e := examine(t, always(map[string]unitState{"a.service": up(), "b.service": up(), "c.service": up()}))
	e.manager.counts = func(time.Duration) map[string]uint32 {
		return map[string]uint32{"a.service": 500, "b.service": 500, "c.service": 1}
	}
	e.manager.more = map[string]unitFacts{"a.service": {ActiveFor: time.Second}, "b.service": {ActiveFor: time.Hour}, "c.service": {ActiveFor: time.Second}}
	b, err := e.host.TakeBaseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.Failed, []string{"a.service"}) || !slices.Contains(b.SSHPorts, 2222) || b.Restarts["b.service"] != 500 {
		t.Errorf("%+v", b)
	}
}

func TestAHostWithoutAServiceManagerHasItsChecks(t *testing.T) {
	host := &Host{Run: t.TempDir(), Units: NewProcesses(), Runner: run.RunnerFunc(run.Run)}
	trial := Trial{Toplevel: t.TempDir(), Policy: proto.GuardPolicy{Health: map[string]proto.HealthCheck{
		"ok":  {Command: []string{"/bin/sh", "-c", "exit 0"}},
		"tcp": {TCP: fmt.Sprintf("127.0.0.1:%d", listenSomewhere(t))},
	}}}
	if v := host.Examine(t.Context(), trial); len(v.Failures) > 0 {
		t.Errorf("%+v", v)
	}
	trial.Policy.Health["no"] = proto.HealthCheck{Command: []string{"/bin/sh", "-c", "echo because >&2; exit 9"}, TimeoutSeconds: 1}
	if v := host.Examine(t.Context(), trial); len(v.Failures) != 1 || !strings.Contains(v.Failures[0], "exit status 9: because") {
		t.Errorf("%+v", v)
	}
	if r, err := host.Check(t.Context(), proto.CheckRequest{Name: "no", Check: trial.Policy.Health["no"]}); err != nil || !strings.Contains(r.Problem, "because") {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := host.Check(t.Context(), proto.CheckRequest{Name: "tcp", Check: trial.Policy.Health["tcp"]}); err != nil || r.Problem != "" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := host.Check(t.Context(), proto.CheckRequest{Name: "bad"}); err == nil || !strings.Contains(err.Error(), "exactly one") {
		t.Error(err)
	}
}
