package run

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// lend makes the terminal the process' own: its group is the foreground one, so that it may read from it, and Ctrl-C reaches it and not us.
func lend(terminal *os.File, attr *syscall.SysProcAttr) error {
	if terminal == nil {
		return nil
	}
	raw, err := terminal.SyscallConn()
	if err != nil {
		return fmt.Errorf("lend the terminal: %w", err)
	}
	attr.Foreground = true
	return raw.Control(func(fd uintptr) { attr.Ctty = int(fd) })
}

// takeBack makes our own group the foreground one again. A terminal that is gone needs it no more.
func takeBack(terminal *os.File) {
	if terminal == nil {
		return
	}
	raw, err := terminal.SyscallConn()
	if err != nil {
		return
	}
	// Who is in the background and does this is stopped, unless it ignores the signal (tcsetpgrp(3)).
	signal.Ignore(syscall.SIGTTOU)
	defer signal.Reset(syscall.SIGTTOU)
	_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPGRP, unix.Getpgrp()) })
}
