package state

import (
	"os"

	"golang.org/x/sys/unix"
)

// swap exchanges two names in a folder in one step.
func swap(dir *os.File, a, b string) error {
	fd := int(dir.Fd())
	return unix.Renameat2(fd, a, fd, b, unix.RENAME_EXCHANGE)
}
