package direct

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/storepath"
)

const (
	// The pauses between two attempts at a lock that somebody else holds. Waiting in flock(2) could not be ended.
	firstLockPause = 2 * time.Millisecond
	maxLockPause   = 100 * time.Millisecond
)

// LockedError says that another process has held the lock of a path for too long: it imports or builds the same path.
type LockedError struct {
	Path   storepath.Path
	Waited time.Duration
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("lock %q: another process has held its lock for %s; see who has opened %s.lock", e.Path, e.Waited, e.Path)
}

// pathLock is Nix's lock of one path, held (libstore/unix/pathlocks.cc): flock(2) on a file beside the path. Who releases it removes the
// file and writes into it, so that those who have opened the file before see that their lock is one of a file that is gone.
type pathLock struct {
	file *os.File
	dir  int
	name string
}

// lockPath takes the lock of a path in the store folder dir. It waits until ctx ends, at most for wait.
func lockPath(ctx context.Context, dir int, path storepath.Path, wait time.Duration) (*pathLock, error) {
	start, pause := time.Now(), firstLockPause
	for {
		lock, err := tryLock(dir, path.Base()+".lock")
		if err != nil {
			return nil, &PathError{Path: path, Err: err}
		}
		if lock != nil {
			return lock, nil
		}
		if waited := time.Since(start); waited > wait {
			return nil, &LockedError{Path: path, Waited: waited.Round(time.Second)}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		pause = min(2*pause, maxLockPause)
	}
}

// tryLock returns nil where somebody else holds the lock.
func tryLock(dir int, name string) (*pathLock, error) {
	for {
		fd, err := openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock %q: %w", name, err)
		}
		held, stale, err := flock(fd)
		switch {
		case err != nil:
			_ = unix.Close(fd)
			return nil, fmt.Errorf("lock %q: %w", name, err)
		case !held:
			return nil, unix.Close(fd)
		case !stale:
			return &pathLock{file: os.NewFile(uintptr(fd), name), dir: dir, name: name}, nil
		}
		if err := unix.Close(fd); err != nil {
			return nil, err
		}
	}
}

// flock tries to lock a file. A lock that is held may be stale: that of a file that is gone by now.
func flock(fd int) (held, stale bool, err error) {
	err = ignoringInterrupts(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, false, err
	}
	return true, st.Size != 0, nil
}

// release gives the lock back. That the file stays where it cannot be removed is no harm.
func (l *pathLock) release() {
	if err := unix.Unlinkat(l.dir, l.name, 0); err == nil {
		_, _ = l.file.WriteString("d")
	}
	_ = l.file.Close()
}

func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = ignoringInterrupts(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// ignoringInterrupts repeats a system call that a signal has interrupted; Go's runtime sends them to its threads.
func ignoringInterrupts(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
