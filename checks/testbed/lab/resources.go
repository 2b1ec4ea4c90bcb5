package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Own has a command of [Host.Command] counted as the host's: it is not started by a process of the host. Release ends what is
// left of it.
func (h *Host) Own(cmd *exec.Cmd) (release func(), err error) {
	// A group of its own: Linux 6.18 kills whatever is started into a group that was killed once.
	dir, err := os.MkdirTemp(h.cgroupDir(), "visitor-*")
	if err != nil {
		return nil, fmt.Errorf("count a command as one of host %q: %w", h.Name, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	return func() {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o200) // the host may be down
		f.Close()
		removeGroup(dir)
	}, nil
}

// removeGroup removes a control group once its processes are gone, which takes a moment after they were killed.
func removeGroup(dir string) {
	for range 100 {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// CPU is what all processes of the host have used since its boot.
func (h *Host) CPU() (time.Duration, error) {
	data, err := os.ReadFile(filepath.Join(h.cgroupDir(), "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("the group of host %q does not tell its CPU time", h.Name)
}

// Memory is what all processes of the host hold for themselves at the moment, in bytes: no files, no page cache.
func (h *Host) Memory() (uint64, error) { return h.memory(func(int) bool { return true }) }

// MemoryOf is [Host.Memory] of the processes of a program. The kernel knows the first 15 bytes of its name.
func (h *Host) MemoryOf(program string) (uint64, error) {
	return h.memory(func(pid int) bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return err == nil && string(bytes.TrimSpace(name)) == program
	})
}

func (h *Host) memory(counts func(pid int) bool) (uint64, error) {
	pids, err := h.pids()
	if err != nil {
		return 0, err
	}
	var sum uint64
	seen := map[string]bool{}
	for _, pid := range pids {
		space := addressSpace(pid)
		if space != "" && !seen[space] && counts(pid) {
			seen[space] = true
			sum += anonymous(pid)
		}
	}
	return sum, nil
}

// addressSpace tells the memory of processes apart: one that was just forked off, and has not executed its program yet, may share that of its parent. It
// is where the kernel has put stack, arguments and environment, by chance; empty where the process has ended.
func addressSpace(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	const behindName, startStack, argStart, envEnd = 3, 28, 48, 51 // as proc(5) numbers them
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) <= envEnd-behindName {
		return ""
	}
	return f[startStack-behindName] + " " + strings.Join(f[argStart-behindName:envEnd-behindName+1], " ")
}

// anonymous is what a process holds for itself, in bytes; 0 where it has ended.
func anonymous(pid int) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(data, []byte("RssAnon:"))
	f := bytes.Fields(rest[:min(len(rest), 40)])
	if len(f) == 0 {
		return 0 // a thread of the kernel
	}
	n, _ := strconv.ParseUint(string(f[0]), 10, 64) // kernel text
	return n << 10
}

// Killed is how many processes of a host whose memory is confined were killed because it was used up.
func (h *Host) Killed() (uint64, error) {
	data, err := os.ReadFile(filepath.Join(cgroup1, "memory", h.cgroup(), "memory.oom_control"))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(h.cgroupDir(), "memory.events"))
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("the group of host %q does not count who was killed", h.Name)
}

// pids lists the host's processes.
func (h *Host) pids() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(h.cgroupDir(), func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a group that has just ended
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(name, "cgroup.procs"))
		if err != nil {
			return nil // as above
		}
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			if pid, err := strconv.Atoi(lines.Text()); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// Bounds are what a host may use at most; zero values bound nothing.
type Bounds struct {
	// CPUs is the time of processors, in processors.
	CPUs float64
	// Memory is in bytes, the page cache included.
	Memory uint64
}

const cpuPeriod = 100 * time.Millisecond

// Confine bounds what the running host may use, until it ends.
func (h *Host) Confine(ctx context.Context, b Bounds) error {
	quota := strconv.FormatInt(int64(b.CPUs*float64(cpuPeriod.Microseconds())), 10)
	period := strconv.FormatInt(cpuPeriod.Microseconds(), 10)
	memory := strconv.FormatUint(b.Memory, 10)
	var err error
	if _, stat := os.Stat(filepath.Join(cgroup1, "memory", "memory.limit_in_bytes")); stat == nil {
		err = errors.Join(
			h.confine1(ctx, "cpu", b.CPUs > 0, [2]string{"cpu.cfs_period_us", period}, [2]string{"cpu.cfs_quota_us", quota}),
			h.confine1(ctx, "memory", b.Memory > 0, [2]string{"memory.limit_in_bytes", memory}))
	} else {
		err = errors.Join(
			h.confine2("cpu", b.CPUs > 0, "cpu.max", quota+" "+period),
			h.confine2("memory", b.Memory > 0, "memory.max", memory))
	}
	if err != nil {
		return fmt.Errorf("bound what host %q may use: %w", h.Name, err)
	}
	return nil
}

// cgroup1 is where the old hierarchies are mounted, one a controller, on machines that have them.
const cgroup1 = "/sys/fs/cgroup"

// confine1 moves the host's processes into a group of one of the old hierarchies; what they start is born there.
func (h *Host) confine1(ctx context.Context, controller string, wanted bool, settings ...[2]string) error {
	if !wanted {
		return nil
	}
	dir := filepath.Join(cgroup1, controller, h.cgroup())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, s := range settings {
		if err := os.WriteFile(filepath.Join(dir, s[0]), []byte(s[1]), 0o644); err != nil {
			return err
		}
	}
	inside := map[int]bool{}
	for before := -1; before != len(inside) && ctx.Err() == nil; { // until no process has started one meanwhile
		before = len(inside)
		pids, err := h.pids()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if !inside[pid] {
				inside[pid] = true
				_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644) // it may have ended
			}
		}
	}
	return ctx.Err()
}

// confine2 turns a controller on for the host's group and sets it.
func (h *Host) confine2(controller string, wanted bool, name, value string) error {
	if !wanted {
		return nil
	}
	dir := h.cgroupDir()
	labs := filepath.Dir(dir)
	for _, parent := range []string{filepath.Dir(labs), labs} {
		if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644)
}

// removeBounds removes the host's groups of the old hierarchies. They are empty once its processes are gone.
func (h *Host) removeBounds() {
	for _, controller := range []string{"cpu", "memory"} {
		removeGroup(filepath.Join(cgroup1, controller, h.cgroup()))
		_ = os.Remove(filepath.Join(cgroup1, controller, filepath.Dir(h.cgroup()))) // other hosts may be in it
	}
}
