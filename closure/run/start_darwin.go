package run

import (
	"errors"
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"
)

func startChild(child *exec.Cmd, cmd Cmd) error {
	switch {
	case cmd.Limits != nil:
		return fmt.Errorf("set limits on a child: %w", errors.ErrUnsupported)
	case cmd.Isolation != nil:
		return fmt.Errorf("isolate a child: %w", errors.ErrUnsupported)
	}
	return child.Start()
}

// keepRunning does nothing here: a program that stops itself has to be continued by hand.
func keepRunning(int) {}

// waitExited returns once the process has ended, and leaves it unreaped.
func waitExited(pid int) {
	queue, err := unix.Kqueue()
	if err != nil {
		return
	}
	defer unix.Close(queue)
	changes := []unix.Kevent_t{{Fflags: unix.NOTE_EXIT}}
	unix.SetKevent(&changes[0], pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	events := make([]unix.Kevent_t, 1)
	for {
		// An error other than EINTR is ESRCH: the process has ended already.
		_, err := unix.Kevent(queue, changes, events, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
