package agent

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// journalDisk is what a journal needs of a file system. In tests it is one that loses what was not synced.
type journalDisk interface {
	// Create makes a file that must not exist, with size bytes of the disk for it.
	Create(path string, size int64) (journalFile, error)
	// Open opens a file for writing, Read returns its contents.
	Open(path string) (journalFile, error)
	Read(path string) ([]byte, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the names in a folder survive the loss of power.
	SyncDir(dir string) error
}

type journalFile interface {
	WriteAt(data []byte, offset int64) (int, error)
	// Reserve takes size bytes of the disk from the offset on.
	Reserve(offset, size int64) error
	// Sync makes the contents survive the loss of power.
	Sync() error
	// Lock takes the file for this process, or returns errHeld. Is says whether the path still names the file.
	Lock() error
	Is(path string) bool
	Close() error
}

// realDisk is the machine's.
type realDisk struct{}

func (realDisk) Create(path string, size int64) (journalFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	file := realFile{f}
	if size == 0 {
		return file, nil
	}
	if err := file.Reserve(0, size); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return file, nil
}

func (realDisk) Open(path string) (journalFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return realFile{f}, nil
}

func (realDisk) Read(path string) ([]byte, error) { return readBounded(path, 2*maxJournal) }
func (realDisk) Rename(from, to string) error     { return os.Rename(from, to) }
func (realDisk) Remove(path string) error         { return os.Remove(path) }
func (realDisk) SyncDir(dir string) error         { return syncFolder(dir) }

type realFile struct{ *os.File }

// Reserve takes the space where the file system can do that; others are written to as they are.
func (f realFile) Reserve(offset, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, offset, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

func (f realFile) Sync() error { return unix.Fdatasync(int(f.Fd())) }

func (f realFile) Lock() error { return flock(f.File, unix.LOCK_EX) }

func (f realFile) Is(path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, named)
}

// flock takes a lock without waiting, and returns errHeld where another process has it.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return errHeld
		default:
			return err
		}
	}
}
