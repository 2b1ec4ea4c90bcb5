package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet/push/health"
	"fleet/push/proto"
)

const (
	// settleLook is the time between two looks at units that settle, and quietTime how long nothing may happen until they have.
	settleLook = 250 * time.Millisecond
	quietTime  = time.Second
	// soakLook is the time between two looks at units that have settled.
	soakLook = time.Second
	// logPatience bounds the reading of all failed units' logs.
	logPatience = 15 * time.Second
	// trialSlack is what an Examine takes beside what it waits for.
	trialSlack = managerPatience + logPatience + 15*time.Second
	// maxVerdict bounds what a verdict names.
	maxVerdict = 20
	// healthUnits are the units of a guard's health checks.
	healthUnits = "fleet-health-"
)

// Trial is what an activated host is judged by.
type Trial struct {
	Baseline Baseline
	Policy   proto.GuardPolicy
	// Toplevel is the system that was activated, or the specialisation; empty means the one that runs.
	Toplevel string
	// Exit is how its switch-to-configuration ended, 0 or 4; it is 0 where the system was booted.
	Exit int
	// Dir takes what commands print, a private folder; empty drops it.
	Dir string
	// Log takes a line for people, free of escape codes and bounded.
	Log func(string)
}

// Verdict says what is wrong with a host: nothing, where Failures is empty.
type Verdict struct {
	// Failures are sentences, the first one being the most telling.
	Failures []string
	// Units are the units among them, with the end of their logs.
	Units []proto.FailedUnit
}

// examiner carries out one Trial.
type examiner struct {
	Trial
	host    *Host
	manager manager // nil where units cannot be looked at
	tree    unitTree
	checks  map[string]proto.HealthCheck
	voice   *voice
}

// voice tells a person, and nothing twice. It may be used by several goroutines.
type voice struct {
	mu   sync.Mutex
	told map[string]bool
	say  func(string)
}

func (x *examiner) say(format string, args ...any) {
	line := oneLine(fmt.Sprintf(format, args...))
	v := x.voice
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.say == nil || v.told[line] {
		return
	}
	if v.told == nil {
		v.told = make(map[string]bool)
	}
	v.told[line] = true
	v.say(line)
}

// Examine waits until the host's units have settled, compares them with the baseline, waits for every check to pass, and then has the host stay healthy
// for the policy's time. It ends with the first failure that time does not mend, and never later than [Host.TrialTime] says. What an Examine
// that was killed has left running, it ends.
func (h *Host) Examine(ctx context.Context, t Trial) Verdict {
	limit := h.TrialTime(t)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the examination did not end within %s", limit))
	defer cancel()
	x, err := h.examiner(ctx, t)
	if err != nil {
		return failed(err)
	}
	return x.examine(ctx)
}

// Watch looks at units and checks until something is wrong, which it returns, or until ctx ends: then it returns the zero Verdict.
func (h *Host) Watch(ctx context.Context, t Trial) Verdict {
	x, err := h.examiner(ctx, t)
	if err != nil {
		return x.unless(ctx, failed(err))
	}
	began, err := x.sight(ctx)
	if err != nil {
		return x.unless(ctx, failed(err))
	}
	return x.unless(ctx, x.stay(ctx, began))
}

// TrialTime bounds an Examine.
func (h *Host) TrialTime(t Trial) time.Duration {
	checks := t.Policy.Health
	if system, err := h.HealthOf(h.toplevelOf(t)); err == nil { // where not, the Examine says so at once
		checks, _ = health.Merge(checks, system)
	}
	var longest time.Duration
	for _, c := range health.Select(checks, proto.CheckHost) {
		longest = max(longest, health.Timeout(c))
	}
	// While the host soaks, a look that was begun may take its time, too.
	return seconds(t.Policy.SettleSeconds) + seconds(t.Policy.SoakSeconds) + 2*longest + trialSlack
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// toplevelOf is the system that is judged.
func (h *Host) toplevelOf(t Trial) string {
	if t.Toplevel != "" {
		return t.Toplevel
	}
	return toplevelAt(filepath.Join(h.Run, "current-system")).String()
}

func failed(err error) Verdict { return Verdict{Failures: []string{oneLine(err.Error())}} }

func (h *Host) examiner(ctx context.Context, t Trial) (*examiner, error) {
	toplevel := h.toplevelOf(t)
	x := &examiner{Trial: t, host: h, tree: treeOf(toplevel), voice: &voice{say: t.Log}}
	x.manager, _ = h.Units.(manager)
	system, err := h.HealthOf(toplevel)
	if err != nil {
		return x, fmt.Errorf("the health checks of the new system: %w", err)
	}
	merged, replaced := health.Merge(t.Policy.Health, system)
	if len(replaced) > 0 {
		x.say("health checks of the plan, instead of the system's of the same name: %s", strings.Join(replaced, ", "))
	}
	x.checks = health.Select(merged, proto.CheckHost)
	if err := health.Validate(x.checks); err != nil {
		return x, err
	}
	if x.manager != nil && len(x.checks) > 0 {
		return x, x.manager.clear(ctx, healthUnits+"*")
	}
	return x, nil
}

// unless drops a verdict that was only reached because somebody has called it off.
func (x *examiner) unless(ctx context.Context, v Verdict) Verdict {
	if ctx.Err() != nil {
		return Verdict{}
	}
	return v
}

func (x *examiner) examine(ctx context.Context) Verdict {
	began, err := x.sight(ctx)
	if err != nil {
		return failed(err)
	}
	now, patient, err := x.settle(ctx, began)
	if err != nil {
		return failed(err)
	}
	if v := x.compare(ctx, began, now, patient); len(v.Failures) > 0 {
		return v
	}
	if x.Exit == unitsFailed && x.manager != nil {
		x.say("switch-to-configuration says that units have failed (exit status 4), but none that counts")
	}
	if v := x.await(ctx); len(v.Failures) > 0 {
		return v
	}
	soak, cancel := context.WithTimeout(ctx, seconds(x.Policy.SoakSeconds))
	defer cancel()
	if x.Policy.SoakSeconds > 0 {
		x.say("healthy; it has to stay so for %s", seconds(x.Policy.SoakSeconds))
		if v := x.stay(soak, now); len(v.Failures) > 0 && ctx.Err() == nil {
			return v
		}
	}
	if ctx.Err() != nil {
		return failed(context.Cause(ctx))
	}
	if x.Policy.SoakSeconds == 0 && len(x.checks) == 0 {
		return Verdict{}
	}
	last, err := x.sight(ctx)
	if err != nil {
		return failed(err)
	}
	return x.since(now).compare(ctx, now, last, false)
}

func (x *examiner) sight(ctx context.Context) (sight, error) {
	if x.manager == nil {
		return sight{}, nil
	}
	return look(ctx, x.manager)
}

// settle looks until nothing has happened for a while. Where services were started again, it takes the whole time: they may be again. It reports
// whether it did.
func (x *examiner) settle(ctx context.Context, began sight) (now sight, patient bool, err error) {
	limit := seconds(x.Policy.SettleSeconds)
	if x.manager == nil || limit == 0 {
		return began, false, nil
	}
	now = began
	begun := time.Now()
	quiet := begun
	for time.Since(begun) < limit {
		loops, _ := suspect(x.Baseline, sight{}, now, x.Policy.IgnoreUnits, false)
		again := slices.ContainsFunc(loops, func(s suspicion) bool { return s.kind == unitLoops })
		busy := now.busy(x.Baseline, x.Policy.IgnoreUnits)
		if busy != "" {
			quiet = time.Now()
		}
		if !again && time.Since(quiet) >= min(quietTime, limit) {
			return now, false, nil
		}
		select {
		case <-time.After(min(settleLook, limit)):
		case <-ctx.Done():
			return now, false, context.Cause(ctx)
		}
		if now, err = x.sight(ctx); err != nil {
			return now, false, err
		}
	}
	if busy := now.busy(x.Baseline, x.Policy.IgnoreUnits); busy != "" {
		x.say("not settled within %s: %s", limit, busy)
	}
	return now, true, nil
}

// compare judges units.
func (x *examiner) compare(ctx context.Context, began, now sight, patient bool) Verdict {
	if x.manager == nil {
		return Verdict{}
	}
	found, notices := suspect(x.Baseline, began, now, x.Policy.IgnoreUnits, patient)
	proven, more, err := investigate(ctx, x.manager, x.tree, now, found)
	for _, line := range append(notices, more...) {
		x.say("%s", line)
	}
	if err != nil {
		return failed(err)
	}
	return x.convict(ctx, proven)
}

// convict adds logs to what was found.
func (x *examiner) convict(ctx context.Context, proven []suspicion) Verdict {
	var v Verdict
	ctx, cancel := context.WithTimeout(ctx, logPatience)
	defer cancel()
	for _, s := range proven {
		if slices.ContainsFunc(v.Units, func(u proto.FailedUnit) bool { return u.Name == oneLine(s.unit) }) {
			continue
		}
		v.Failures = append(v.Failures, oneLine(s.text))
		v.Units = append(v.Units, proto.FailedUnit{Name: oneLine(s.unit), Log: x.host.endOfLog(ctx, s.unit)})
	}
	return v
}

// endOfLog returns the last lines of a unit's log.
func (h *Host) endOfLog(ctx context.Context, unit string) []string {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	text, err := h.output(ctx, 64<<10, "journalctl", "--unit="+unit, fmt.Sprintf("--lines=%d", failedUnitLines), "--no-pager", "--output=cat", "--quiet")
	if err != nil {
		return []string{"its log cannot be read: " + oneLine(err.Error())}
	}
	return lastLines(string(text), failedUnitLines)
}

// stay looks at units and checks until one fails, or ctx ends.
func (x *examiner) stay(ctx context.Context, began sight) Verdict {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	verdicts := make(chan Verdict, 1)
	report := func(v Verdict) {
		select {
		case verdicts <- v:
			cancel()
		default: // the first one counts
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if v := x.watchUnits(ctx, began); len(v.Failures) > 0 {
			report(v)
		}
	})
	wg.Go(func() {
		looker := x.host.looker(x.manager, x.Dir, healthUnits)
		if v := x.eachCheck(func(name string, c proto.HealthCheck) error {
			err := watchCheck(ctx, name, c, looker)
			if err != nil {
				report(failed(err))
			}
			return err
		}); len(v.Failures) > 0 {
			report(v)
		}
	})
	wg.Wait()
	select {
	case v := <-verdicts:
		return v
	default:
		return Verdict{}
	}
}

// watchUnits takes every automatic restart since began for a failure.
func (x *examiner) watchUnits(ctx context.Context, began sight) Verdict {
	if x.manager == nil {
		return Verdict{}
	}
	calm := x.since(began)
	for {
		select {
		case <-time.After(soakLook):
		case <-ctx.Done():
			return Verdict{}
		}
		now, err := x.sight(ctx)
		if ctx.Err() != nil {
			return Verdict{}
		}
		if err != nil {
			return failed(err)
		}
		if v := calm.compare(ctx, began, now, false); len(v.Failures) > 0 {
			return x.unless(ctx, v)
		}
	}
}

// since is the same trial, with what began had already found acceptable as its baseline.
func (x *examiner) since(began sight) *examiner {
	later := *x
	later.Baseline.Restarts = began.restarts
	return &later
}
