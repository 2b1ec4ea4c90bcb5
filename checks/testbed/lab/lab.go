// Package lab makes real hosts on one Linux machine, for tests and the demo: systemd as PID 1, sshd, Nix, a
// network of their own. No Docker, no KVM. A host is an overlay over a Debian root file system in namespaces of
// its own; it boots in half a second, reboots for real, and leaves nothing behind.
//
// All of it needs root. Every host's network namespace hangs on a bridge in a namespace of
// the lab, so that no test traffic ever touches the machine's own network.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// StateDirEnv names the variable that moves images and labs to another folder.
const StateDirEnv = "FLEET_TESTBED_DIR"

// StateDir is where images and labs are kept.
func StateDir() string {
	if dir := os.Getenv(StateDirEnv); dir != "" {
		return dir
	}
	return "/var/lib/fleet-testbed"
}

// Lab is a set of hosts on one bridge. Hosts of different labs cannot reach each other.
type Lab struct {
	// Name is part of the names of namespaces; short.
	Name string
	dir  string
	// repo is where the boot stage of the NixOS stand-in is found.
	repo string
	// booting is read-held while a host is brought up.
	booting sync.RWMutex
}

// Open returns a lab by name; it need not exist yet. Repo is the project's root.
func Open(name, repo string) (*Lab, error) {
	if name == "" || len(name) > 8 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return nil, fmt.Errorf("lab name %q: want at most 8 lower-case letters and digits", name)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the testbed needs root: namespaces, mounts and a bridge")
	}
	repo, err := filepath.Abs(repo)
	if err != nil {
		return nil, err
	}
	l := &Lab{Name: name, dir: filepath.Join(StateDir(), "labs", name), repo: repo}
	return l, nil
}

// Key is the path of the lab's SSH key; its public half is authorized for root and all test users of every host.
func (l *Lab) Key() string { return filepath.Join(l.dir, "id_ed25519") }

func (l *Lab) ensureKey(ctx context.Context) error {
	if _, err := os.Stat(l.Key()); err == nil {
		return nil
	}
	_, err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleet-testbed", "-f", l.Key())
	return err
}

// Claim reserves the lab for this process until release is called, so that two runs do not take each other's hosts down.
func (l *Lab) Claim() (release func(), err error) {
	path := filepath.Join(StateDir(), "labs", l.Name+".lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another process uses the lab %q: %w", l.Name, err)
	}
	return func() { f.Close() }, nil
}

// Prepare makes what all hosts of the lab share: its key and its bridge. Call it before hosts are brought up beside each other.
func (l *Lab) Prepare(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(l.dir, "hosts"), 0o755); err != nil {
		return err
	}
	if err := l.ensureKey(ctx); err != nil {
		return err
	}
	if err := raiseLimit(inotifyLimit, inotifyInstances); err != nil {
		return err
	}
	return l.ensureBridge(ctx)
}

// Every host's systemd, journald and login sessions hold instances of inotify, and the kernel counts them by user: they are all
// root's, of all labs together. The usual 128 are enough for a dozen hosts; the next one does not boot.
const (
	inotifyLimit     = "/proc/sys/fs/inotify/max_user_instances"
	inotifyInstances = 2048
)

// raiseLimit raises a limit of the machine, until its next boot, where it is lower. It is never lowered again: other labs may use it.
func raiseLimit(path string, want int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read limit: %w", err)
	}
	if have, err := strconv.Atoi(strings.TrimSpace(string(data))); err != nil || have >= want {
		return err
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(want)), 0); err != nil {
		return fmt.Errorf("raise limit: %w", err)
	}
	return nil
}

// Hosts lists the lab's hosts, up or not, sorted.
func (l *Lab) Hosts() ([]*Host, error) {
	entries, err := os.ReadDir(filepath.Join(l.dir, "hosts"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var hosts []*Host
	for _, entry := range entries {
		host, err := l.Host(entry.Name())
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, host)
	}
	slices.SortFunc(hosts, func(a, b *Host) int { return strings.Compare(a.Name, b.Name) })
	return hosts, nil
}

// Down ends all hosts and removes everything the lab has on the machine. It may be called at any time, again and again.
func (l *Lab) Down(ctx context.Context) error {
	hosts, err := l.Hosts()
	if err != nil {
		return err
	}
	var group errgroup.Group
	for _, host := range hosts {
		group.Go(func() error { return host.Remove(ctx) })
	}
	if err := errors.Join(group.Wait(), l.removeBridge(ctx)); err != nil {
		return err
	}
	return os.RemoveAll(l.dir)
}

// RemoveOnInterrupt takes the lab down and ends the process when it is interrupted or told to end, until stop is called.
// Hosts are no children of the process and would outlive it.
func (l *Lab) RemoveOnInterrupt() (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	go func() {
		if _, ok := <-signals; !ok {
			return
		}
		fmt.Fprintln(os.Stderr, "testbed: interrupted, removing the hosts")
		l.booting.Lock() // waits for hosts that are just coming up, and lets no other come
		if err := l.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "testbed:", err)
		}
		os.Exit(130)
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}
}

// command runs a program of the machine and returns what it printed, stdout and stderr together.
func command(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}
