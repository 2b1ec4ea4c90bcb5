package nar

import (
	"bufio"
	"io"

	"golang.org/x/sys/unix"
)

// Warm has the operating system read what is at path into memory: directories and inodes, and the first bytes, as many as limit, of the contents of files. It does not
// wait for contents. It is a hint: what cannot be read is left to who needs it.
func Warm(path string, limit uint64) {
	w := &Writer{w: bufio.NewWriterSize(io.Discard, viewBuffer)}
	_ = dump(w, path, func(w *Writer, at int, name, inside string, executable bool, size uint64) error {
		if ask := min(size, limit); ask > 0 {
			limit -= ask
			warmFile(at, name, ask)
		}
		return measureFile(w, at, name, inside, executable, size)
	})
}

func warmFile(at int, name string, size uint64) {
	fd, err := open(at, name, unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	willNeed(fd, size)
}
