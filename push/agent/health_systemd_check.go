package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"fleet/push/health"
)

// check starts the program as the job of a oneshot unit, whose time systemd bounds. The unit stays until it was looked at: what it has become is how
// the program has ended.
func (u SystemdUnits) check(ctx context.Context, unit Unit) error {
	over := context.WithoutCancel(ctx)
	defer func() {
		// Whatever we have been told, nothing of it runs on.
		over, cancel := context.WithTimeout(over, questionTimeout)
		defer cancel()
		_ = u.clear(over, unit.Name)
	}()
	begin := func(ctx context.Context, conn *dbus.Conn) error {
		_, err := conn.StartTransientUnitContext(ctx, unit.Name, "fail", checkProperties(unit), nil)
		return err
	}
	err := askOnce(over, begin)
	if err != nil && wentAway(err) {
		// It may have been started, or not.
		_ = u.clear(over, unit.Name)
		err = ask(over, begin)
	}
	if err != nil {
		return &health.UnknownError{Err: fmt.Errorf("start unit %q: %w", unit.Name, err)}
	}
	return u.awaitCheck(ctx, unit)
}

// awaitCheck looks at the unit until it has ended.
func (u SystemdUnits) awaitCheck(ctx context.Context, unit Unit) error {
	for pause := checkPoll / 16; ; pause = min(2*pause, checkPoll) {
		f, err := u.facts(ctx, unit.Name)
		if err != nil {
			return &health.UnknownError{Err: err}
		}
		switch {
		case f.State.Active == "active":
			return nil
		case f.State.Active == "failed":
			return checkEnded(f, unit)
		case f.State.Active == "inactive" && !f.State.Job:
			return &health.UnknownError{Err: fmt.Errorf("unit %q was stopped by somebody", unit.Name)}
		}
		if info, err := os.Stat(unit.Log); err == nil && info.Size() > maxCheckOutput {
			return fmt.Errorf("it prints more than %d KiB", maxCheckOutput>>10)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func checkEnded(f unitFacts, unit Unit) error {
	if f.Result == "timeout" {
		return fmt.Errorf("it did not end within %s", unit.MaxRuntime)
	}
	output, err := readTail(unit.Log, 4<<10)
	if err != nil {
		output = ""
	}
	if f.Result == "signal" || f.Result == "core-dump" {
		return health.Ended(-1, fmt.Sprintf("signal %d", f.Status), output)
	}
	return health.Ended(int(f.Status), "", output)
}

// checkProperties are those of a unit whose start is the program's whole run.
func checkProperties(unit Unit) []dbus.Property {
	limit := unit.MaxRuntime
	unit.MaxRuntime, unit.StopTimeout = 0, checkStop
	properties := unitProperties(unit)
	for i, p := range properties {
		switch p.Name {
		case "Type":
			properties[i] = dbus.PropType("oneshot")
		case "CollectMode":
			properties[i] = property("CollectMode", "inactive")
		case "ExecStart":
			properties[i] = property("ExecStart", []execStart{literally(unit.Argv)})
		}
	}
	if unit.Log == "" {
		properties = append(properties, property("StandardOutput", "null"), property("StandardError", "null"))
	}
	return append(properties, property("RemainAfterExit", true), property("TimeoutStartUSec", uint64(limit.Microseconds())))
}

// execStart is a member of ExecStart, (sasb) on the bus.
type execStart struct {
	Path string
	Args []string
	// Unclean has an exit by a signal count as a failure.
	Unclean bool
}

// literally runs a program with its arguments as they are: systemd would put variables into them.
func literally(argv []string) execStart {
	command := execStart{Path: argv[0]}
	for _, arg := range argv {
		command.Args = append(command.Args, strings.ReplaceAll(arg, "$", "$$"))
	}
	return command
}
