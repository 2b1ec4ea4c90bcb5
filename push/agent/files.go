package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// openRegular opens a file for reading without ever waiting for it.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("read %q: not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writeAtomically replaces a file, so that a reader sees the old or the new one whole.
func writeAtomically(path string, data []byte) error {
	return renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(filepath.Dir(path)))
}

// replaceLink makes path a symbolic link to target by one rename.
func replaceLink(target, path string) error {
	return renameio.Symlink(target, path)
}

// errHeld says that another process holds a lock.
var errHeld = errors.New("lock is held")

// lockNow takes a lock on the file without waiting; closing the file, or the end of the process, frees it.
// It returns errHeld where another process has it.
func lockNow(path string, flags int, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err = flock(f, how); err == nil {
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// held says whether a process holds the file's lock; a file that does not exist is not held.
func held(path string) (bool, error) {
	f, err := lockNow(path, os.O_RDONLY, unix.LOCK_SH)
	switch {
	case errors.Is(err, errHeld):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return false, f.Close()
}

// makeFleetDir makes the folder that holds sessions, transactions and the lock. Other users may pass
// through it to a socket that is theirs, and see nothing.
func makeFleetDir(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("use %q: not a folder", dir)
	}
	if info.Mode().Perm() == 0o711 {
		return nil
	}
	return os.Chmod(dir, 0o711) // the umask may have taken the bits
}
