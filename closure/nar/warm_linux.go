package nar

import "golang.org/x/sys/unix"

// willNeed has the first bytes of a file read.
func willNeed(fd int, size uint64) {
	_ = unix.Fadvise(fd, 0, int64(size), unix.FADV_WILLNEED) // a hint
}
