package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

const (
	// unitStartTimeout bounds how long systemd may take to execute a program, and unitStartTry one of the tries.
	unitStartTimeout = 30 * time.Second
	unitStartTry     = 10 * time.Second
	// systemdPause is the time between two tries. A systemd that executes itself anew (daemon-reexec, as some activations do) is away for
	// a tenth of a second.
	systemdPause = 200 * time.Millisecond
)

// SystemdUnits are transient units of systemd, which is asked over its private socket: that works while the
// message bus is down, as it is during some activations.
type SystemdUnits struct{}

var _ Units = SystemdUnits{}

// withSystemd calls f with a connection that it closes afterwards.
func withSystemd(ctx context.Context, f func(*dbus.Conn) error) error {
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("connect to systemd: %w", err)
	}
	defer conn.Close()
	return f(conn)
}

// Start runs the program as a transient unit of Type=exec. Where systemd goes away meanwhile, it looks for the unit and tries again: a unit
// that has started and ended unseen may then be started twice.
func (u SystemdUnits) Start(ctx context.Context, unit Unit) error {
	ctx, cancel := context.WithTimeout(ctx, unitStartTimeout)
	defer cancel()
	for {
		err := startOnce(ctx, unit)
		if err == nil || !wentAway(err) {
			return err
		}
		select {
		case <-time.After(systemdPause):
		case <-ctx.Done():
			return err
		}
		if running, lookErr := u.Running(ctx, unit.Name); lookErr == nil && running {
			return nil
		}
	}
}

// jobError says that systemd has done what it was asked for, and that it went wrong.
type jobError struct{ unit, result string }

func (e *jobError) Error() string {
	return fmt.Sprintf("start unit %q: the job ended as %q", e.unit, e.result)
}

// wentAway tells a connection to systemd that failed from an answer of systemd.
func wentAway(err error) bool {
	_, answer := errors.AsType[godbus.Error](err)
	_, job := errors.AsType[*jobError](err)
	return !answer && !job
}

func startOnce(ctx context.Context, unit Unit) error {
	ctx, cancel := context.WithTimeout(ctx, unitStartTry)
	defer cancel()
	return withSystemd(ctx, func(conn *dbus.Conn) error {
		done := make(chan string, 1)
		if _, err := conn.StartTransientUnitContext(ctx, unit.Name, "fail", unitProperties(unit), done); err != nil {
			return fmt.Errorf("start unit %q: %w", unit.Name, err)
		}
		select {
		case result := <-done:
			if result != "done" {
				return &jobError{unit.Name, result}
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("start unit %q: %w", unit.Name, ctx.Err())
		}
	})
}

// unitProperties are those of systemd.exec(5) and systemd.service(5), by the names that they have on the bus.
func unitProperties(unit Unit) []dbus.Property {
	props := []dbus.Property{
		dbus.PropDescription(unit.Description),
		// Type=exec fails where the program cannot be executed, and RuntimeMaxSec works with it, unlike with oneshot.
		dbus.PropType("exec"),
		dbus.PropExecStart(unit.Argv, false),
		property("Environment", unit.Env),
		property("CollectMode", "inactive-or-failed"),
		property("KillMode", "control-group"),
		property("WorkingDirectory", "/"),
	}
	if unit.Log != "" {
		props = append(props, property("StandardOutputFileToAppend", unit.Log), property("StandardErrorFileToAppend", unit.Log))
	}
	if unit.MaxRuntime > 0 {
		props = append(props, property("RuntimeMaxUSec", uint64(unit.MaxRuntime.Microseconds())))
	}
	if unit.Standalone {
		props = append(props,
			property("DefaultDependencies", false), property("IgnoreOnIsolate", true),
			dbus.PropConflicts("shutdown.target"), dbus.PropBefore("shutdown.target"))
	}
	return props
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

// Running says whether the unit has processes.
func (SystemdUnits) Running(ctx context.Context, name string) (bool, error) {
	running := false
	err := withSystemd(ctx, func(conn *dbus.Conn) error {
		units, err := conn.ListUnitsByNamesContext(ctx, []string{name})
		if err != nil {
			return fmt.Errorf("look for unit %q: %w", name, err)
		}
		running = slices.ContainsFunc(units, func(u dbus.UnitStatus) bool {
			return u.Name == name && u.ActiveState != "inactive" && u.ActiveState != "failed"
		})
		return nil
	})
	return running, err
}

// Stop stops the unit and waits for the end of its processes.
func (SystemdUnits) Stop(ctx context.Context, name string) error {
	return withSystemd(ctx, func(conn *dbus.Conn) error {
		done := make(chan string, 1)
		_, err := conn.StopUnitContext(ctx, name, "replace", done)
		if noSuchUnit(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stop unit %q: %w", name, err)
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("stop unit %q: %w", name, ctx.Err())
		}
	})
}

// noSuchUnit knows systemd's name for a unit that is not loaded (org.freedesktop.systemd1(5)).
func noSuchUnit(err error) bool {
	e, ok := errors.AsType[godbus.Error](err)
	return ok && e.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

// Failed lists failed units, and those that wait for another restart.
func (SystemdUnits) Failed(ctx context.Context) ([]string, error) {
	var names []string
	err := withSystemd(ctx, func(conn *dbus.Conn) error {
		units, err := conn.ListUnitsFilteredContext(ctx, []string{"failed", "activating"})
		if err != nil {
			return fmt.Errorf("list failed units: %w", err)
		}
		for _, u := range units {
			if u.ActiveState == "failed" || strings.HasPrefix(u.SubState, "auto-restart") {
				names = append(names, u.Name)
			}
		}
		slices.Sort(names)
		return nil
	})
	return names, err
}

// Detached is true: systemd gives its units streams of their own.
func (SystemdUnits) Detached() bool { return true }
