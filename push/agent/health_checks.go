package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet/closure/run"
	"fleet/push/health"
	"fleet/push/proto"
)

// Check makes one health check, once: for somebody who looks from here at another host, or at this one. The error is for one that could not be made.
func (h *Host) Check(ctx context.Context, r proto.CheckRequest) (proto.CheckResult, error) {
	if err := health.Validate(map[string]proto.HealthCheck{r.Name: r.Check}); err != nil {
		return proto.CheckResult{}, proto.Errorf(proto.CodeUsage, "%s", oneLine(err.Error()))
	}
	if err := makeFleetDir(h.fleetDir()); err != nil {
		return proto.CheckResult{}, err
	}
	dir, err := os.MkdirTemp(h.fleetDir(), "check-")
	if err != nil {
		return proto.CheckResult{}, err
	}
	defer os.RemoveAll(dir)
	m, _ := h.Units.(manager)
	err = health.Try(ctx, r.Name, r.Check, h.looker(m, dir, "fleet-check-"+strings.ToLower(rand.Text()[:8])+"-"))
	if _, unknown := errors.AsType[*health.UnknownError](err); unknown {
		return proto.CheckResult{}, err
	}
	if err != nil {
		return proto.CheckResult{Problem: oneLine(err.Error())}, nil
	}
	return proto.CheckResult{}, nil
}

// check serves [proto.MethodCheck].
func (s *session) check(ctx context.Context, r proto.CheckRequest) (proto.CheckResult, error) {
	if !s.host.Root() {
		return proto.CheckResult{}, proto.Errorf(proto.CodeForbidden, "a health check is made by root; this agent is not")
	}
	return s.host.Check(ctx, r)
}

// await waits for all checks to pass, at the same time.
func (x *examiner) await(ctx context.Context) Verdict {
	looker := x.host.looker(x.manager, x.Dir, healthUnits)
	return x.eachCheck(func(name string, c proto.HealthCheck) error {
		begun := time.Now()
		err := health.Await(ctx, name, c, looker)
		if err == nil {
			x.say("health check %q (%s) passed after %s", name, health.What(c), time.Since(begun).Round(10*time.Millisecond))
		}
		return err
	})
}

// eachCheck calls f for every check at the same time and collects what went wrong.
func (x *examiner) eachCheck(f func(string, proto.HealthCheck) error) Verdict {
	names := slices.Sorted(maps.Keys(x.checks))
	results := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { results[i] = f(name, x.checks[name]) })
	}
	wg.Wait()
	var v Verdict
	for _, err := range results {
		if err != nil && len(v.Failures) < maxVerdict {
			v.Failures = append(v.Failures, oneLine(err.Error()))
		}
	}
	return v
}

// watchCheck looks again and again until the check fails, which it returns, or ctx ends.
func watchCheck(ctx context.Context, name string, c proto.HealthCheck, l health.Looker) error {
	unknown := time.Time{}
	for {
		select {
		case <-time.After(health.Interval(c)):
		case <-ctx.Done():
			return nil
		}
		err := health.Try(ctx, name, c, l)
		switch _, cannot := errors.AsType[*health.UnknownError](err); {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			unknown = time.Time{}
		case !cannot:
			return err
		case unknown.IsZero():
			unknown = time.Now()
		case time.Since(unknown) > managerPatience+health.Interval(c):
			return err // what cannot be looked at for that long is not healthy
		}
	}
}

// looker looks from this host. Commands run in units whose names begin with prefix, and print into dir.
func (h *Host) looker(m manager, dir, prefix string) health.Looker {
	if m == nil {
		base := run.Cmd{Dir: "/", Env: h.environment(), ClearEnv: true, NewSession: true}
		return health.Looker{Command: health.Program(h.Runner, base)}
	}
	return health.Looker{
		Command: func(ctx context.Context, name string, argv []string) error {
			return h.runCheck(ctx, m, dir, prefix, name, argv)
		},
		Unit: func(ctx context.Context, unit string) error {
			f, err := m.facts(ctx, unit)
			if err != nil {
				return &health.UnknownError{Err: err}
			}
			if f.State.Active != "active" && f.State.Active != "reloading" {
				return fmt.Errorf("it is %s (%s)", f.State.Active, f.State.Sub)
			}
			return nil
		},
	}
}

func (h *Host) runCheck(ctx context.Context, m manager, dir, prefix, name string, argv []string) error {
	program, err := findProgram(argv[0])
	if err != nil {
		return err
	}
	argv = append([]string{program}, argv[1:]...)
	unit := Unit{
		Name: prefix + name + ".service", Description: "health check " + name, Argv: argv, Env: h.environment(), Standalone: true, MaxRuntime: time.Minute,
	}
	if deadline, ok := ctx.Deadline(); ok {
		unit.MaxRuntime = max(time.Until(deadline), time.Second)
	}
	if dir != "" {
		unit.Log = filepath.Join(dir, "check-"+name+".log")
		if err := os.Remove(unit.Log); err != nil && !errors.Is(err, os.ErrNotExist) {
			return &health.UnknownError{Err: err}
		}
	}
	return m.check(ctx, unit)
}

// findProgram looks for a program where the agent's programs are found: systemd would look elsewhere.
func findProgram(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(programPath, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no program %.100q in %s", name, programPath)
}
