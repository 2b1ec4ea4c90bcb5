package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"fleet/push/guard"
)

// bootTimer ticks once at a moment of CLOCK_BOOTTIME, which no step of the wall clock moves and no sleep of the machine stops.
type bootTimer struct {
	C    <-chan struct{}
	file *os.File
}

func newBootTimer() (*bootTimer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	c := make(chan struct{}, 1)
	t := &bootTimer{C: c, file: os.NewFile(uintptr(fd), "timer")}
	go func() {
		for {
			var expirations [8]byte
			if _, err := t.file.Read(expirations[:]); err != nil {
				return // it was closed
			}
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}()
	return t, nil
}

// set makes it tick at that moment, or never for 0.
func (t *bootTimer) set(at guard.Boottime) {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return // it was closed
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(at))}
	_ = raw.Control(func(fd uintptr) { _ = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil) })
}

func (t *bootTimer) close() { _ = t.file.Close() }
