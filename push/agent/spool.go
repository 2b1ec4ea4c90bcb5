package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"fleet/closure/pack"
)

// spoolShare is the part of the free space that a spool may fill. The store, which the push is for, often lies on the same disk.
const spoolShare = 4

// spool is a file without a name, so that nothing is left of it when the agent has ended, in whatever way.
type spool struct {
	*os.File
	dir string
	// limit is how large it may become, in bytes.
	limit int64
}

// openSpool makes an empty spool in a folder on a disk.
func openSpool(dir string) (pack.Spool, error) {
	limit, err := spoolLimit(dir)
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dir, "fleet-spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &spool{file, dir, limit}, nil
}

// spoolLimit is how much a folder has room for. It refuses one that lies in memory, of which a host may have less than a push has bytes.
func spoolLimit(dir string) (int64, error) {
	free, kind, err := freeIn(dir)
	if err != nil {
		return 0, err
	}
	if kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC {
		return 0, fmt.Errorf("%q lies in memory", dir)
	}
	return int64(min(free/spoolShare, pack.MaxKept)), nil
}

// spoolFree is what may be kept in a folder, 0 where nothing can be.
func spoolFree(dir string) uint64 {
	limit, err := spoolLimit(dir)
	if err != nil {
		return 0
	}
	return uint64(limit)
}

// WriteAt implements [io.WriterAt].
func (s *spool) WriteAt(data []byte, off int64) (int, error) {
	if off+int64(len(data)) > s.limit {
		return 0, fmt.Errorf("%q has room for %d MiB, a part in %d of what was free", s.dir, s.limit>>20, spoolShare)
	}
	return s.File.WriteAt(data, off)
}
