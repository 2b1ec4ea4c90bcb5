package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"fleet/push/guard"
)

// clockTick is the unit of times in /proc/PID/stat. Linux has it at a hundredth of a second for programs, whatever it uses itself.
const clockTick = 10 * time.Millisecond

// process is what the kernel says of a process.
type process struct {
	pid, parent, session int
	name                 string
	// started is when it began to run, to a hundredth of a second.
	started guard.Boottime
}

// processOf reads /proc/PID/stat, see proc_pid_stat(5).
func processOf(pid int) (process, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, err
	}
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return process{}, errors.New("its stat is no stat")
	}
	p := process{pid: pid, name: string(text[open+1 : end])}
	// After the name: state, parent, process group, session, …, and the start as the 20th.
	fields := bytes.Fields(text[end+1:])
	if len(fields) < 20 {
		return process{}, errors.New("its stat is too short")
	}
	var ticks int64
	for _, number := range []struct {
		field int
		into  *int
	}{{1, &p.parent}, {3, &p.session}} {
		if *number.into, err = strconv.Atoi(string(fields[number.field])); err != nil {
			return process{}, err
		}
	}
	if ticks, err = strconv.ParseInt(string(fields[19]), 10, 64); err != nil {
		return process{}, err
	}
	p.started = guard.Boottime(time.Duration(ticks) * clockTick)
	return p, nil
}

// ancestry is a process and those above it, up to the one below PID 1. PID 1 itself is not in it.
func ancestry(pid int) ([]process, error) {
	var chain []process
	for pid > 1 {
		p, err := processOf(pid)
		if err != nil {
			return nil, fmt.Errorf("look at process %d: %w", pid, err)
		}
		chain = append(chain, p)
		if len(chain) > 1000 {
			return nil, errors.New("its ancestors have no end")
		}
		pid = p.parent
	}
	return chain, nil
}

// killSession kills every process of a session, and tries until there is none: a process may start another one while we look.
func killSession(session int) {
	for range 50 {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		found := false
		for _, entry := range entries {
			pid, err := strconv.Atoi(entry.Name())
			if err != nil {
				continue
			}
			if p, err := processOf(pid); err == nil && p.session == session && pid != os.Getpid() && !isZombie(pid) {
				found = true
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended by itself
			}
		}
		if !found {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func isZombie(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	return len(fields) > 0 && string(fields[0]) == "Z"
}
