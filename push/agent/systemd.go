package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	// unitStartTimeout bounds how long systemd may take to execute a program, and unitStartTry one of the tries to start or to stop one.
	unitStartTimeout = 30 * time.Second
	unitStartTry     = 10 * time.Second
	// systemdPause is the time between two tries. A systemd that executes itself anew (daemon-reexec, as some activations do) is away for
	// a tenth of a second.
	systemdPause = 200 * time.Millisecond
	// restartPause is how long a unit is away that systemd starts again.
	restartPause = 300 * time.Millisecond
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
		if err := startTransient(ctx, conn, unit, done); err != nil {
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

// startTransient starts the unit, or the timer that starts it.
func startTransient(ctx context.Context, conn *dbus.Conn, unit Unit, done chan<- string) error {
	if unit.Once == 0 {
		_, err := conn.StartTransientUnitContext(ctx, unit.Name, "fail", unitProperties(unit), done)
		return err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	text, err := conn.GetManagerProperty("UserspaceTimestampMonotonic")
	if err != nil {
		return err
	}
	// "@t 1234"
	started, err := strconv.ParseInt(text[strings.LastIndexByte(text, ' ')+1:], 10, 64)
	if err != nil {
		return fmt.Errorf("read when systemd was started: %w", err)
	}
	// Counted from there and not from now: systemd counts the latter anew with every daemon-reload.
	after := uint64(now.Nano()/1000-started) + uint64(unit.Once.Microseconds())
	properties := []dbus.Property{
		dbus.PropDescription(unit.Description),
		property("TimersMonotonic", []timerSpec{{"OnStartupSec", after}}),
		property("AccuracyUSec", uint64(time.Second.Microseconds())),
		property("RemainAfterElapse", false),
		property("CollectMode", "inactive-or-failed"),
	}
	properties = append(properties, standalone(unit)...)
	aux := []dbus.PropertyCollection{{Name: unit.Name, Properties: unitProperties(unit)}}
	_, err = conn.StartTransientUnitAux(ctx, strings.TrimSuffix(unit.Name, ".service")+".timer", "fail", properties, aux, done)
	return err
}

// timerSpec is a member of a timer's list, (st) on the bus.
type timerSpec struct {
	Base  string
	After uint64
}

// standalone are the properties of a unit that nothing but the host's end stops.
func standalone(unit Unit) []dbus.Property {
	if !unit.Standalone && !unit.Lasting {
		return nil
	}
	properties := []dbus.Property{property("DefaultDependencies", false), property("IgnoreOnIsolate", true)}
	if unit.Lasting {
		return properties
	}
	return append(properties, dbus.PropConflicts("shutdown.target"), dbus.PropBefore("shutdown.target"))
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
	if unit.Restart {
		props = append(props,
			property("Restart", "always"), property("RestartUSec", uint64(restartPause.Microseconds())), property("StartLimitIntervalUSec", uint64(0)),
			property("RestartPreventExitStatus", exitStatuses{Codes: []int32{0}, Signals: []int32{}}))
	}
	if unit.Vital {
		props = append(props, property("OOMScoreAdjust", int32(-1000)))
	}
	if unit.StopTimeout > 0 {
		props = append(props, property("TimeoutStopUSec", uint64(unit.StopTimeout.Microseconds())))
	}
	return append(props, standalone(unit)...)
}

// exitStatuses is a set of exit codes and signals, (aiai) on the bus.
type exitStatuses struct {
	Codes, Signals []int32
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

// Stop stops the unit and waits for the end of its processes. Where systemd goes away meanwhile, nobody would ever report that end: the unit is
// asked for again.
func (SystemdUnits) Stop(ctx context.Context, name string) error {
	for {
		err := stopOnce(ctx, name)
		if err == nil || !wentAway(err) {
			return err
		}
		select {
		case <-time.After(systemdPause):
		case <-ctx.Done():
			return err
		}
	}
}

func stopOnce(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, unitStartTry)
	defer cancel()
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

// Kill sends SIGKILL to all processes of the unit and waits for its end.
func (u SystemdUnits) Kill(ctx context.Context, name string) error {
	err := withSystemd(ctx, func(conn *dbus.Conn) error {
		return conn.KillUnitWithTarget(ctx, name, dbus.All, int32(unix.SIGKILL))
	})
	if noSuchUnit(err) {
		return nil
	}
	return u.Stop(ctx, name) // it is no unit, or one without processes, or one that is killed
}

// noSuchUnit knows systemd's name for a unit that is not loaded (org.freedesktop.systemd1(5)).
func noSuchUnit(err error) bool {
	e, ok := errors.AsType[godbus.Error](err)
	return ok && e.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

// unitExists knows systemd's name for a unit that is there already.
func unitExists(err error) bool {
	e, ok := errors.AsType[godbus.Error](err)
	return ok && e.Name == "org.freedesktop.systemd1.UnitExists"
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

// Starting asks for the state of the whole, as "systemctl is-system-running" does.
func (SystemdUnits) Starting(ctx context.Context) (bool, error) {
	starting := false
	err := withSystemd(ctx, func(conn *dbus.Conn) error {
		state, err := conn.SystemStateContext(ctx)
		if err != nil {
			return fmt.Errorf("ask for the state of the system: %w", err)
		}
		text, _ := state.Value.Value().(string)
		starting = text == "initializing" || text == "starting"
		return nil
	})
	return starting, err
}

// Detached is true: systemd gives its units streams of their own.
func (SystemdUnits) Detached() bool { return true }
