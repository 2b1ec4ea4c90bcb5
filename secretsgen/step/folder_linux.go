package step

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// folderPrefix begins the name of a private folder in a file system that others use too.
const folderPrefix = "fleet-step-"

// newFolder makes a private folder where there are no namespaces. Who made it holds a lock on it, so that one that was left by a process that
// was killed can be told and removed.
func (j *job) newFolder() (*place, error) {
	root, err := memoryFolder(j.as())
	if err != nil {
		return nil, err
	}
	removeStale(root)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopt what the generator leaves: %w", err)
	}
	holder, err := os.MkdirTemp(root, folderPrefix)
	if err != nil {
		return nil, err
	}
	lock, err := lockFolder(holder)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(holder))
	}
	p := &place{dir: filepath.Join(holder, "fleet"), killRest: killDescendants}
	p.remove = func() error {
		defer unix.Close(lock)
		return removeAll(holder)
	}
	if swap := swapDevices(); swap != "" {
		p.warnings = append(p.warnings, "values may be written to swap ("+swap+") while they are made, since this machine allows no memory that is not: turn it off, or encrypt it")
	}
	if j.switches() {
		// The user has to reach what is in there.
		if err := os.Chmod(holder, 0o711); err != nil {
			return nil, errors.Join(err, p.remove())
		}
	}
	if err := p.open(j); err != nil {
		return nil, errors.Join(err, p.remove())
	}
	return p, nil
}

// memoryFolder is a folder of the user, or one with a sticky bit, in a file system that is in memory.
func memoryFolder(as User) (string, error) {
	var tried []string
	for _, dir := range [...]string{os.Getenv("XDG_RUNTIME_DIR"), filepath.Join("/run/user", strconv.Itoa(int(as.UID))), "/dev/shm"} {
		var fs unix.Statfs_t
		if dir == "" || !filepath.IsAbs(dir) {
			continue
		}
		tried = append(tried, dir)
		if unix.Statfs(dir, &fs) != nil || fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC || unix.Access(dir, unix.W_OK) != nil {
			continue
		}
		return dir, nil
	}
	return "", fmt.Errorf("none of %s is a folder in memory that can be written to", strings.Join(tried, ", "))
}

func lockFolder(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// staleAge is how old a folder has to be before its lock is looked at: between its making and its locking is a moment.
const staleAge = time.Minute

// removeStale removes folders of runs that were killed. What cannot be removed belongs to somebody else.
func removeStale(root string) {
	found, _ := filepath.Glob(filepath.Join(root, folderPrefix+"*"))
	for _, dir := range found {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < staleAge {
			continue
		}
		if fd, err := lockFolder(dir); err == nil {
			_ = removeAll(dir)
			_ = unix.Close(fd)
		}
	}
}

// removeAll removes a folder, also where a generator has taken our right to write from one of those in it.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, _ error) error {
		if entry != nil && entry.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// swapDevices lists what memory is swapped out to; empty where there is nothing.
func swapDevices() string {
	data, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return ""
	}
	var names []string
	for i, line := range strings.Split(string(data), "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 0 && !strings.HasPrefix(fields[0], "/dev/zram") {
			names = append(names, fields[0])
		}
	}
	return strings.Join(names, ", ")
}

// killDescendants kills every process below this one and waits for the end of those. What has lost its parent is ours, see newFolder.
func killDescendants() error {
	for end := time.Now().Add(10 * time.Second); ; {
		children := descendants(os.Getpid())
		if len(children) == 0 {
			return nil
		}
		for _, pid := range children {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
		if time.Now().After(end) {
			return errors.New("the generator left a process that does not end after SIGKILL")
		}
		time.Sleep(time.Millisecond)
	}
}

// descendants lists the processes below pid.
func descendants(pid int) []int {
	entries, _ := os.ReadDir("/proc")
	children := map[int][]int{}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue
		}
		// The name stands in parentheses and may hold anything; state and parent follow (proc(5)).
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	var all []int
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		all = append(all, children[next[0]]...)
		next = append(next, children[next[0]]...)
	}
	return all
}
