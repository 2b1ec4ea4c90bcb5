package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

const (
	// managerPatience is how long a service manager may be away, as one that executes itself anew is.
	managerPatience = 15 * time.Second
	// questionTimeout bounds one question to it.
	questionTimeout = 10 * time.Second
	// questions is how many properties are asked for at once.
	questions = 8
	// maxCheckOutput bounds what a check's command may print, in bytes: it lies on a tmpfs.
	maxCheckOutput = 1 << 20
	checkPoll      = 100 * time.Millisecond
	checkStop      = 2 * time.Second

	transientUnits = "/run/systemd/transient"
)

// unitState is a unit as the service manager lists it.
type unitState struct {
	Load, Active, Sub string
	// Job says that something is queued for it, Transient that no file of the system declares it.
	Job, Transient bool
}

// runs says whether the unit is up, or on its way there.
func (s unitState) runs() bool {
	switch s.Active {
	case "active", "reloading", "refreshing", "maintenance":
		return true
	case "activating":
		return !s.loops()
	}
	return false
}

// loops says that it has ended and waits to be started again.
func (s unitState) loops() bool { return strings.HasPrefix(s.Sub, "auto-restart") }

func (s unitState) failed() bool { return s.Active == "failed" || s.loops() }

// unitFacts are what tells a unit that is missed from one that has done its work.
type unitFacts struct {
	// Found is the name of the unit that this name belongs to now; State is that unit's.
	Found string
	State unitState
	// File declares it.
	File string
	// ActiveFor is how long it has been active.
	ActiveFor time.Duration
	// Result is how a service ended, Status its exit status or signal.
	Result          string
	Status          int32
	Type, BusName   string
	RemainAfterExit bool
	TriggeredBy     []string
	PulledIn        []string
	ConditionFailed bool
	OnlyWhileNeeded bool
	NoManualStart   bool
}

// manager is what [Host.Examine] asks a service manager. Units that cannot be looked at, as those of [Processes], have none.
type manager interface {
	// list returns all loaded units, by their names.
	list(ctx context.Context) (map[string]unitState, error)
	// restarts returns how often services were started again automatically, of those that were.
	restarts(ctx context.Context, services []string) (map[string]uint32, error)
	facts(ctx context.Context, name string) (unitFacts, error)
	// start starts units and returns once all jobs have ended, however that went.
	start(ctx context.Context, names []string) error
	// check runs a program in a unit of its own; the unit's MaxRuntime bounds it, whatever becomes of us.
	check(ctx context.Context, unit Unit) error
	// clear ends and forgets units whose names match.
	clear(ctx context.Context, pattern string) error
	// listens returns the addresses of sockets whose names match.
	listens(ctx context.Context, patterns []string) ([]string, error)
}

var _ manager = SystemdUnits{}

// ask calls f with a connection, again and again while systemd is away.
func ask(ctx context.Context, f func(context.Context, *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, managerPatience)
	defer cancel()
	for {
		err := askOnce(ctx, f)
		if err == nil || !wentAway(err) {
			return err
		}
		select {
		case <-time.After(systemdPause):
		case <-ctx.Done():
			return fmt.Errorf("systemd does not answer: %w", err)
		}
	}
}

func askOnce(ctx context.Context, f func(context.Context, *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	return withSystemd(ctx, func(conn *dbus.Conn) error { return f(ctx, conn) })
}

func (SystemdUnits) list(ctx context.Context) (map[string]unitState, error) {
	var all map[string]unitState
	err := ask(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		units, err := conn.ListUnitsContext(ctx)
		if err != nil {
			return fmt.Errorf("list units: %w", err)
		}
		all = make(map[string]unitState, len(units))
		for _, u := range units {
			all[u.Name] = stateOf(u)
		}
		return nil
	})
	return all, err
}

func stateOf(u dbus.UnitStatus) unitState {
	s := unitState{Load: u.LoadState, Active: u.ActiveState, Sub: u.SubState, Job: u.JobId != 0}
	_, err := os.Lstat(filepath.Join(transientUnits, u.Name))
	s.Transient = err == nil
	return s
}

func (SystemdUnits) restarts(ctx context.Context, services []string) (map[string]uint32, error) {
	var counts map[string]uint32
	err := ask(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		var mu sync.Mutex
		counts = make(map[string]uint32)
		return inParallel(services, func(name string) error {
			p, err := conn.GetServicePropertyContext(ctx, name, "NRestarts")
			if err != nil {
				return fmt.Errorf("ask how often unit %q was restarted: %w", name, err)
			}
			if n, ok := p.Value.Value().(uint32); ok && n > 0 {
				mu.Lock()
				counts[name] = n
				mu.Unlock()
			}
			return nil
		})
	})
	return counts, err
}

// inParallel calls f with every name and returns the first error.
func inParallel(names []string, f func(string) error) error {
	next := make(chan string)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for range min(questions, len(names)) {
		wg.Go(func() {
			for name := range next {
				if err := f(name); err != nil {
					mu.Lock()
					first = errors.Join(first, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, name := range names {
		mu.Lock()
		failed := first != nil
		mu.Unlock()
		if failed {
			break
		}
		next <- name
	}
	close(next)
	wg.Wait()
	return first
}

func (SystemdUnits) facts(ctx context.Context, name string) (unitFacts, error) {
	var f unitFacts
	err := ask(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		unit, err := conn.GetUnitPropertiesContext(ctx, name)
		if err != nil {
			return fmt.Errorf("look at unit %q: %w", name, err)
		}
		service := map[string]any{}
		if strings.HasSuffix(name, ".service") {
			if service, err = conn.GetUnitTypePropertiesContext(ctx, name, "Service"); err != nil {
				return fmt.Errorf("look at unit %q: %w", name, err)
			}
		}
		f = factsOf(unit, service)
		return nil
	})
	return f, err
}

// factsOf reads properties by the names that they have on the bus, see org.freedesktop.systemd1(5).
func factsOf(unit, service map[string]any) unitFacts {
	f := unitFacts{
		Found: get[string](unit, "Id"), File: get[string](unit, "FragmentPath"),
		State:           unitState{Load: get[string](unit, "LoadState"), Active: get[string](unit, "ActiveState"), Sub: get[string](unit, "SubState")},
		TriggeredBy:     get[[]string](unit, "TriggeredBy"),
		OnlyWhileNeeded: get[bool](unit, "StopWhenUnneeded"), NoManualStart: get[bool](unit, "RefuseManualStart"),
		Result: get[string](service, "Result"), Status: get[int32](service, "ExecMainStatus"),
		Type: get[string](service, "Type"), BusName: get[string](service, "BusName"), RemainAfterExit: get[bool](service, "RemainAfterExit"),
	}
	f.State.Transient = get[bool](unit, "Transient")
	if since := get[uint64](unit, "ActiveEnterTimestampMonotonic"); since > 0 {
		f.ActiveFor = monotonicNow() - time.Duration(since)*time.Microsecond
	}
	if job := get[[]any](unit, "Job"); len(job) > 0 {
		id, _ := job[0].(uint32)
		f.State.Job = id != 0
	}
	f.ConditionFailed = get[uint64](unit, "ConditionTimestampMonotonic") > 0 && !get[bool](unit, "ConditionResult")
	for _, kind := range []string{"WantedBy", "RequiredBy", "BoundBy", "UpheldBy"} {
		f.PulledIn = append(f.PulledIn, get[[]string](unit, kind)...)
	}
	return f
}

// monotonicNow is the clock of systemd's timestamps.
func monotonicNow() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0 // it does not fail for this clock
	}
	return time.Duration(now.Nano())
}

// get is a property, or its zero value where it is not there or of another type.
func get[T any](properties map[string]any, name string) T {
	value, _ := properties[name].(T)
	return value
}

func (SystemdUnits) start(ctx context.Context, names []string) error {
	return withSystemd(ctx, func(conn *dbus.Conn) error {
		done := make(chan string, len(names))
		waiting := 0
		var failures []error
		for _, name := range names {
			// One that has failed too often would not be started.
			_ = conn.ResetFailedUnitContext(ctx, name)
			if _, err := conn.StartUnitContext(ctx, name, "replace", done); err != nil {
				failures = append(failures, fmt.Errorf("start unit %q: %w", name, err))
				continue
			}
			waiting++
		}
		for range waiting {
			select {
			case <-done:
			case <-ctx.Done():
				return errors.Join(append(failures, context.Cause(ctx))...)
			}
		}
		return errors.Join(failures...)
	})
}

func (u SystemdUnits) clear(ctx context.Context, pattern string) error {
	return ask(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		units, err := conn.ListUnitsByPatternsContext(ctx, nil, []string{pattern})
		if err != nil {
			return fmt.Errorf("look for units %q: %w", pattern, err)
		}
		for _, unit := range units {
			if err := u.Kill(ctx, unit.Name); err != nil {
				return err
			}
			_ = conn.ResetFailedUnitContext(ctx, unit.Name) // it is gone where it had not failed
		}
		return nil
	})
}

func (SystemdUnits) listens(ctx context.Context, patterns []string) ([]string, error) {
	var addresses []string
	err := ask(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		addresses = nil
		units, err := conn.ListUnitsByPatternsContext(ctx, []string{"active"}, patterns)
		if err != nil {
			return fmt.Errorf("look for sockets: %w", err)
		}
		for _, unit := range units {
			p, err := conn.GetUnitTypePropertyContext(ctx, unit.Name, "Socket", "Listen")
			if err != nil {
				return fmt.Errorf("look at socket %q: %w", unit.Name, err)
			}
			pairs, _ := p.Value.Value().([][]any) // kind and address
			for _, pair := range pairs {
				if address, ok := pair[len(pair)-1].(string); ok {
					addresses = append(addresses, address)
				}
			}
		}
		return nil
	})
	return addresses, err
}
