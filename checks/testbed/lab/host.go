package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec is what a host is made of. The zero values of all fields but Address are usable.
type Spec struct {
	// Address is the host's IPv4 address in [Subnet].
	Address string
	// Suite is the Debian suite of its root file system; empty means trixie (Nix 2.26), bookworm has Nix 2.8, sid a new one.
	Suite string
	// NoDaemon leaves the Nix daemon out: only root can use the store then.
	NoDaemon bool
	// NoNix hides Nix: the host has no /nix/var/nix.
	NoNix bool
	// StoreSize bounds /nix to a tmpfs of this size, in tmpfs' notation ("64m"); empty leaves it on the overlay.
	StoreSize string
}

// Host is one host of a lab.
type Host struct {
	Name string
	Spec Spec
	lab  *Lab
}

// Host returns a host by name, with the spec that it was made with, if it was.
func (l *Lab) Host(name string) (*Host, error) {
	h := &Host{Name: name, lab: l}
	data, err := os.ReadFile(h.path("spec.json"))
	if errors.Is(err, os.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return nil, err
	}
	return h, json.Unmarshal(data, &h.Spec)
}

func (h *Host) path(parts ...string) string {
	return filepath.Join(append([]string{h.lab.dir, "hosts", h.Name}, parts...)...)
}

// Console is the path of the host's console output, boot after boot.
func (h *Host) Console() string { return h.path("console.log") }

// Up makes the host where it is new, starts it, and returns once its boot is complete.
func (l *Lab) Up(ctx context.Context, name string, spec Spec, say func(string)) (*Host, error) {
	if spec.Suite == "" {
		spec.Suite = "trixie"
	}
	image, err := EnsureImage(ctx, StateDir(), spec.Suite, say)
	if err != nil {
		return nil, err
	}
	l.booting.RLock() // held for ever once the lab is taken down by an interrupt
	defer l.booting.RUnlock()
	h := &Host{Name: name, Spec: spec, lab: l}
	if h.PID() != 0 {
		return h, nil
	}
	if err := l.Prepare(ctx); err != nil {
		return nil, err
	}
	if err := h.make(ctx, image); err != nil {
		return nil, fmt.Errorf("make host %q: %w", name, err)
	}
	return h, h.start(ctx)
}

// start launches the supervisor, which outlives us, and waits for the boot.
func (h *Host) start(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(h.Console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), superviseEnv+"="+h.lab.Name+"/"+h.Name, repoEnv+"="+h.lab.repo)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(h.path("supervisor.pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return err
	}
	// The supervisor is init's child once we are gone; until then its end must be collected.
	go func() { _ = cmd.Wait() }()
	return h.WaitBoot(ctx)
}

// WaitBoot returns once the host's systemd says that the boot is complete, or fails with the console's last lines.
func (h *Host) WaitBoot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		out, _ := h.Exec(ctx, "systemctl", "is-system-running", "--wait")
		switch strings.TrimSpace(out) {
		case "running", "degraded":
			return nil
		}
		select {
		case <-ctx.Done():
			console, _ := os.ReadFile(h.Console())
			return fmt.Errorf("host %q did not boot: %w; its console ends in:\n%s", h.Name, ctx.Err(), lastLines(string(console), 15))
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// PID is the machine's process id of the host's PID 1, or 0 where the host is down.
func (h *Host) PID() int {
	data, err := os.ReadFile(h.path("init.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || unix.Kill(pid, 0) != nil || !h.owns(pid) {
		return 0
	}
	return pid
}

// owns guards against a process id that the kernel has given to somebody else meanwhile.
func (h *Host) owns(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && strings.Contains(string(data), h.cgroup())
}

// Command prepares a command inside all of the host's namespaces, as its root.
func (h *Host) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	pid := h.PID()
	if pid == 0 {
		return nil, fmt.Errorf("host %q is down", h.Name)
	}
	args := append([]string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/root", "--",
		"env", "-i", "PATH=/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root",
		"LANG=C.UTF-8", "TERM=" + cmp.Or(os.Getenv("TERM"), "dumb")}, argv...)
	return exec.CommandContext(ctx, "nsenter", args...), nil
}

// Exec runs a command on the host as root and returns stdout and stderr together.
func (h *Host) Exec(ctx context.Context, argv ...string) (string, error) {
	cmd, err := h.Command(ctx, argv...)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = cmd.Start(); err == nil {
		done := make(chan struct{})
		go keepGoing(cmd.Process, done)
		err = cmd.Wait()
		close(done)
	}
	if err != nil {
		return out.String(), fmt.Errorf("on %s: %s: %w: %s", h.Name, strings.Join(argv, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// keepGoing has nsenter collect its child. It stops itself with a child that is stopped, as systemd does to all processes of a host that goes
// down, and the host's namespace ends only once the child was collected.
func keepGoing(nsenter *os.Process, done <-chan struct{}) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			_ = nsenter.Signal(unix.SIGCONT) // it may just have ended
		}
	}
}

// Sh runs shell text on the host as root.
func (h *Host) Sh(ctx context.Context, text string, args ...string) (string, error) {
	return h.Exec(ctx, append([]string{"bash", "-euo", "pipefail", "-c", text, "bash"}, args...)...)
}

// Reboot reboots the host as its own systemd does and waits for the next boot.
func (h *Host) Reboot(ctx context.Context) error {
	before := h.PID()
	if _, err := h.Exec(ctx, "systemctl", "reboot"); err != nil && h.PID() == before {
		return err
	}
	if err := h.waitGone(ctx, before); err != nil {
		return err
	}
	return h.WaitBoot(ctx)
}

// PowerCut kills every process of the host at once; with restart, it boots again.
func (h *Host) PowerCut(ctx context.Context, restart bool) error {
	pid := h.PID()
	if err := h.stop(); err != nil {
		return err
	}
	if err := h.waitGone(ctx, pid); err != nil || !restart {
		return err
	}
	// Some kernels (seen: 6.18) kill what is started right into a group whose processes were killed before: a new group has no such past.
	h.removeCgroup(ctx)
	return h.start(ctx)
}

func (h *Host) waitGone(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Second)
	defer cancel()
	for pid != 0 && h.PID() == pid {
		select {
		case <-ctx.Done():
			return fmt.Errorf("host %q does not end: %w", h.Name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// stop kills all of the host's processes and returns once its supervisor, which collects PID 1 and is told not to boot the host
// again, is gone. A PID 1 that nobody collects would keep its group for as long as the machine's init takes.
func (h *Host) stop() error {
	data, err := os.ReadFile(h.path("supervisor.pid"))
	if err != nil {
		return h.killCgroup()
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		return h.killCgroup()
	}
	for range 250 {
		if !h.isSupervisor(pid) {
			return h.killCgroup()
		}
		_ = unix.Kill(pid, unix.SIGTERM)
		if err := h.killCgroup(); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	return h.killCgroup()
}

func (h *Host) isSupervisor(pid int) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && strings.Contains(string(env), superviseEnv+"="+h.lab.Name+"/"+h.Name+"\x00")
}

// Remove ends the host and removes everything that it left on the machine.
func (h *Host) Remove(ctx context.Context) error {
	pid := h.PID()
	if err := h.stop(); err != nil {
		return err
	}
	if err := h.waitGone(ctx, pid); err != nil {
		return err
	}
	if err := removeNetNS(ctx, h.netNS()); err != nil {
		return err
	}
	h.removeCgroup(ctx)
	h.removeBounds()
	return os.RemoveAll(h.path())
}
