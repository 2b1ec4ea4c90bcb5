package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fleet/closure/run"
	"fleet/push"
	"fleet/push/health"
	"fleet/push/proto"
)

// HealthError says that a health check has failed that was made by somebody else than the host.
type HealthError struct {
	Host, Check, From, Problem string
}

func (e *HealthError) Error() string {
	return fmt.Sprintf("health check %q of %q, made from %q: %s", e.Check, e.Host, e.From, e.Problem)
}

// Hint names the setting.
func (e *HealthError) Hint() string {
	return fmt.Sprintf("hosts.%s.deploy.health.%s says what has to succeed, and within which timeout", e.Host, e.Check)
}

// reason is what the host is told.
func (e *HealthError) reason() string {
	return fmt.Sprintf("health check %s from %s: %s", e.Check, e.From, e.Problem)
}

// examine has the others look at the host, all at the same time. What has passed once is not looked at again.
func (v *vigil) examine(ctx context.Context) error {
	var (
		all    sync.WaitGroup
		mu     sync.Mutex
		failed []error
	)
	for name, check := range v.others {
		v.mu.Lock()
		passed := v.passed[name]
		v.mu.Unlock()
		if passed {
			continue
		}
		all.Go(func() {
			err := v.look(ctx, name, check)
			v.mu.Lock()
			v.passed[name] = err == nil
			v.mu.Unlock()
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, err)
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

// look repeats a check until it passes, or its time is up.
func (v *vigil) look(ctx context.Context, name string, check proto.HealthCheck) error {
	interval, end := health.Interval(check), time.Now().Add(health.Timeout(check))
	for {
		problem, err := v.try(ctx, name, check)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && problem == "":
			return nil
		case err != nil:
			problem = err.Error()
		}
		if !time.Now().Add(interval).Before(end) {
			return &HealthError{Host: v.h.name, Check: name, From: check.From, Problem: problem}
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
		}
	}
}

// try makes a check once.
func (v *vigil) try(ctx context.Context, name string, check proto.HealthCheck) (problem string, err error) {
	if check.From == proto.CheckOperator {
		look := v.h.Look
		if look == nil {
			look = LookFromHere
		}
		return look(ctx, v.h.name, v.h.host.Deploy.Address, name, check), nil
	}
	session, err := v.h.sessions.get(ctx, check.From)
	defer v.h.sessions.forget(check.From) // the other host may come back within the check's time
	defer v.h.sessions.giveBack(check.From)
	if err != nil {
		return "", err
	}
	return session.Check(ctx, proto.CheckRequest{Name: name, Check: check})
}

// LookFromHere makes a health check of a host from this machine once, and returns what is wrong. A command finds the host's name in FLEET_HOST, and its
// address in FLEET_ADDRESS.
func LookFromHere(ctx context.Context, host, address, name string, check proto.HealthCheck) string {
	environment := run.Cmd{Env: []string{"FLEET_HOST=" + host, "FLEET_ADDRESS=" + address}, NewSession: true}
	err := health.Try(ctx, name, check, health.Looker{Command: health.Program(run.RunnerFunc(run.Run), environment)})
	if failed, ok := errors.AsType[*health.Error](err); ok {
		err = failed.Err
	}
	if err == nil {
		return ""
	}
	return push.CleanText(err.Error())
}
