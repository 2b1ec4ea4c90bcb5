package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
)

const (
	// politePatience is how long a host has to go down by itself; forcePatience how long it has once systemd was told not to wait for anything.
	politePatience = 90 * time.Second
	forcePatience  = 30 * time.Second
	rebootPrograms = 20 * time.Second
)

// rebootUnit asks and then forces the host to go down. It is a unit of its own, since the guard ends as soon as the host begins to.
func rebootUnit(txn string) string { return "fleet-reboot-" + txn + ".service" }

// rebootMachine has the host rebooted, and returns only where it stays.
func rebootMachine(ctx context.Context, h *Host, txn string) error {
	unix.Sync()
	err := h.Units.Start(ctx, Unit{
		Name: rebootUnit(txn), Description: "Reboot for transaction " + txn, Argv: []string{h.Helper, "guard-reboot"}, Env: h.environment(),
		Lasting: true, Vital: true,
	})
	if running, lookErr := h.Units.Running(ctx, rebootUnit(txn)); err != nil && (lookErr != nil || !running) {
		// Without a service manager that answers nothing is left to be asked.
		return errors.Join(err, forceReboot(ctx))
	}
	select {
	case <-time.After(politePatience + 2*forcePatience + rebootPrograms):
		return errors.New("the host is still up, although it was told to go down by force")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// RunReboot reboots this machine: politely, then without waiting for anything, then by the kernel alone.
func RunReboot(ctx context.Context, host *Host) error {
	if !host.Units.Detached() {
		if err := detach(os.DevNull); err != nil {
			return err
		}
	}
	var errs []error
	for _, try := range []struct {
		argv     []string
		patience time.Duration
	}{
		{[]string{"systemctl", "reboot"}, politePatience},
		{[]string{"systemctl", "reboot", "--force"}, forcePatience},
	} {
		patience := try.patience
		if err := askReboot(ctx, host, try.argv); err != nil {
			errs, patience = append(errs, err), time.Second
		}
		select {
		case <-time.After(patience):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return errors.Join(append(errs, forceReboot(ctx))...)
}

func askReboot(ctx context.Context, host *Host, argv []string) error {
	ctx, cancel := context.WithTimeout(ctx, rebootPrograms)
	defer cancel()
	return host.Runner.Run(ctx, run.Cmd{Argv: argv, Env: host.environment(), ClearEnv: true})
}

// forceReboot is the last way down. What is in memory of the file systems is written out, but a disk that hangs is not waited for.
func forceReboot(ctx context.Context) error {
	synced := make(chan struct{})
	go func() {
		unix.Sync()
		close(synced)
	}()
	select {
	case <-synced:
	case <-time.After(10 * time.Second):
	case <-ctx.Done():
	}
	return fmt.Errorf("reboot: %w", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
}
