package transport

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo terminal that repeats nothing and changes no line ends. It returns our
// end, and the name of the other one.
func openTerminal() (*os.File, string, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open terminal: %w", err)
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	var settings *unix.Termios
	if err == nil {
		settings, err = unix.IoctlGetTermios(fd, unix.TCGETS)
	}
	if err == nil {
		settings.Lflag &^= unix.ECHO
		settings.Oflag &^= unix.ONLCR
		err = unix.IoctlSetTermios(fd, unix.TCSETS, settings)
	}
	if err != nil {
		_ = master.Close()
		return nil, "", fmt.Errorf("open terminal: %w", err)
	}
	return master, fmt.Sprintf("/dev/pts/%d", number), nil
}
