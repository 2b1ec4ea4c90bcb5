package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxHolder bounds what is read of a lock's file, in bytes.
	maxHolder = 512
	// lockWait is how long a lock may take to be given up after its holder was killed: a child that the holder was starting has it, too,
	// until it runs its own program. lockPause is how often it is tried.
	lockWait  = 500 * time.Millisecond
	lockPause = 20 * time.Millisecond
)

// Lock makes this process the one writer of the fleet's state in the work tree until unlock is called, and mends what a writer that was
// killed has left. It does not wait for anybody's work: the error is a [*LockedError] where another process has it. The kernel gives the lock up with its process.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) {
	file, err := s.lockFile(ctx)
	if err != nil {
		return nil, fmt.Errorf("lock the state: %w", err)
	}
	f, err := acquire(ctx, file)
	if err != nil {
		return nil, err
	}
	unlock = func() {
		_ = os.Remove(file) // before the lock is given up, so that nobody can have taken it over
		_ = f.Close()
	}
	if err := s.mend(ctx); err != nil {
		unlock()
		return nil, fmt.Errorf("lock the state: clean up after a writer that was killed: %w", err)
	}
	return unlock, nil
}

// lockFile is in git's own folder of the work tree, where Nix does not see it; without git it is in the fleet's state.
func (s *Store) lockFile(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	inside, err := s.inWorktree(ctx)
	if err == nil && inside {
		out, err := s.git(ctx, nil, "rev-parse", "--absolute-git-dir")
		if err != nil {
			return "", err
		}
		return filepath.Join(strings.TrimSuffix(string(out), "\n"), "fleet-state-"+s.fleet+".lock"), nil
	}
	root, err := s.makeRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(s.dir, s.folder(), ".lock"), root.Close()
}

// acquire locks a file and writes into it who we are.
func acquire(ctx context.Context, file string) (*os.File, error) {
	for deadline := time.Now().Add(lockWait); ; {
		f, err := tryLock(file)
		var locked *LockedError
		if f != nil || err != nil && (!errors.As(err, &locked) || time.Now().After(deadline)) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock the state: %w", ctx.Err())
		case <-time.After(lockPause):
		}
	}
}

// tryLock returns neither a file nor an error where the file was removed after it was opened: then the lock is of one that nobody sees.
func tryLock(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the state: %w", err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		holder, _ := io.ReadAll(io.LimitReader(f, maxHolder))
		_ = f.Close()
		return nil, &LockedError{Holder: printable(string(holder))}
	case err != nil:
		_ = f.Close()
		return nil, fmt.Errorf("lock the state: %w", err)
	}
	locked, err := f.Stat()
	seen, errSeen := os.Lstat(file)
	if err != nil || errSeen != nil || !os.SameFile(locked, seen) {
		_ = f.Close()
		return nil, nil
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(self()), 0)
	return f, nil
}

func self() string {
	name, host := "somebody", "this machine"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return fmt.Sprintf("process %d of %s on %s since %s", os.Getpid(), name, host, time.Now().Format(time.DateTime))
}

// printable keeps a text from doing anything to a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
}

// mend removes what writers left that were killed, and tells git of files that one of them did not come to tell it of.
func (s *Store) mend(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	root, err := s.openRoot()
	if err != nil {
		return ignoreMissing(err)
	}
	defer root.Close()
	if err := clean(root); err != nil {
		return err
	}
	// What git does not take is said by the write that needs it.
	_ = s.track(ctx, s.folder()+"/secrets")
	return nil
}
