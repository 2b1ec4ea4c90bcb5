package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startChild starts child, isolated and with limits where that is asked for.
func startChild(child *exec.Cmd, cmd Cmd) error {
	if cmd.Isolation == nil {
		return startLimited(child, cmd.Limits)
	}
	cmd.Isolation.apply(child.SysProcAttr)
	if !cmd.Isolation.DieWithParent {
		return startLimited(child, cmd.Limits)
	}
	started := make(chan error, 1)
	go func() {
		// What the kernel calls the parent is the thread that forked (prctl(2), PR_SET_PDEATHSIG): it must not end before the process does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := startLimited(child, cmd.Limits)
		var pid int
		if err == nil {
			pid = child.Process.Pid
		}
		started <- err
		if err == nil {
			waitExited(pid)
		}
	}()
	return <-started
}

func (i *Isolation) apply(attr *syscall.SysProcAttr) {
	if i.NewMounts {
		attr.Cloneflags |= unix.CLONE_NEWNS
	}
	if i.NewPIDs {
		attr.Cloneflags |= unix.CLONE_NEWPID
	}
	if i.Inside != nil {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(i.Inside.UID), HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(i.Inside.GID), HostID: os.Getegid(), Size: 1}}
	}
	if i.As != nil {
		attr.Credential = &syscall.Credential{Uid: i.As.UID, Gid: i.As.GID, Groups: i.As.Groups}
	}
	if i.DieWithParent {
		attr.Pdeathsig = syscall.SIGKILL
	}
}

// startLimited starts child, with limits where they are given.
//
// Go cannot set limits between fork and exec. So the child asks to be traced, which stops it right after exec, before
// the program's first instruction; there it gets its limits and is let go.
func startLimited(child *exec.Cmd, limits *Limits) error {
	if limits == nil {
		return child.Start()
	}
	// All requests to a traced process must come from the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child.SysProcAttr.Ptrace = true
	if err := child.Start(); err != nil {
		return fmt.Errorf("start with limits: %w", err)
	}
	if err := limitStopped(child.Process.Pid, limits); err != nil {
		_ = child.Process.Kill()
		_ = child.Wait()
		return fmt.Errorf("set limits: %w", err)
	}
	return nil
}

func limitStopped(pid int, limits *Limits) error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	if !status.Stopped() {
		return fmt.Errorf("the process ended before its first instruction (status %#x)", uint32(status))
	}
	for _, limit := range limits.list() {
		if err := unix.Prlimit(pid, limit.resource, &limit.value, nil); err != nil {
			return err
		}
	}
	return unix.PtraceDetach(pid)
}

// keepRunning returns once the process has ended, and has it go on whenever it was stopped: nobody is there who could take it up again.
func keepRunning(pid int) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || info.Code != cldStopped:
			return
		default:
			_ = unix.Kill(-pid, unix.SIGCONT)
			time.Sleep(10 * time.Millisecond) // where it stops itself at once again
		}
	}
}

// cldStopped is CLD_STOPPED of siginfo_t's si_code (waitid(2)).
const cldStopped = 5

// waitExited returns once the process has ended, and leaves it unreaped.
func waitExited(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
