//go:build faults

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// faultPoint kills the process where a test asks for that: at the point whose number stands in the file fault-at. All points that were passed, of all
// processes, are in the file fault-trace.
func faultPoint(h *Host, point string) {
	trace := filepath.Join(h.Run, "fault-trace")
	f, err := os.OpenFile(trace, os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return // nobody asks
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX) != nil {
		return
	}
	passed, err := os.ReadFile(trace)
	if err != nil {
		return
	}
	number := strings.Count(string(passed), "\n") + 1
	fmt.Fprintln(f, number, point)
	text, err := os.ReadFile(filepath.Join(h.Run, "fault-at"))
	if err != nil {
		return
	}
	if at, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && at == number {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}
