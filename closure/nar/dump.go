package nar

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Dump writes the NAR of what is at path. A symlink at path or below it is written as a symlink and never
// followed. Sockets, pipes and devices are errors, and so is a file that changes its size meanwhile. The names of
// macOS' case hack are not undone.
func Dump(w io.Writer, path string) error {
	nw := NewWriter(w)
	return dump(nw, path, dumpFile)
}

// Size returns the size of the NAR that [Dump] would write, in bytes, without reading a file.
func Size(path string) (uint64, error) {
	nw := NewWriter(io.Discard)
	err := dump(nw, path, measureFile)
	return nw.Size(), err
}

// Files visits the files of what is at path, in the order of its NAR; visit reads as much of the contents as it wants. What would be an error of [Dump] is one here,
// but for files that are not read to their end.
func Files(path string, visit func(name string, size uint64, contents io.Reader) error) error {
	// The writer checks the tree; nobody wants its structure.
	w := &Writer{w: bufio.NewWriterSize(io.Discard, viewBuffer)}
	return dump(w, path, func(w *Writer, at int, name, inside string, executable bool, size uint64) error {
		err := readFile(at, name, inside, size, func(contents io.Reader) error { return visit(inside, size, contents) })
		return errors.Join(err, measureFile(w, at, name, inside, executable, size))
	})
}

// fileFunc writes one file of a walk.
type fileFunc func(w *Writer, at int, name, path string, executable bool, size uint64) error

func dump(w *Writer, path string, file fileFunc) error {
	d := dumper{w: w, file: file}
	if err := d.node(unix.AT_FDCWD, path, ""); err != nil {
		return fmt.Errorf("nar: dump %q: %w", path, err)
	}
	return w.Close()
}

type dumper struct {
	w    *Writer
	file fileFunc
}

// node writes the file called name in the directory at, which is path inside of the NAR.
func (d *dumper) node(at int, name, path string) error {
	var stat unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(at, name, &stat, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return d.file(d.w, at, name, path, stat.Mode&unix.S_IXUSR != 0, uint64(stat.Size))
	case unix.S_IFLNK:
		target, err := readLink(at, name)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: path, Err: err}
		}
		return d.w.Symlink(path, target)
	case unix.S_IFDIR:
		return d.directory(at, name, path)
	}
	return &FormatError{Path: path, Reason: "it is neither a file nor a directory nor a symlink"}
}

func (d *dumper) directory(at int, name, path string) error {
	// Checked before the directory is opened, so that the depth bounds our descriptors too.
	if err := d.w.Directory(path); err != nil {
		return err
	}
	fd, err := open(at, name, unix.O_DIRECTORY)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, entry := range names {
		if err := d.node(fd, entry, joinPath(path, entry)); err != nil {
			return err
		}
	}
	return nil
}

func dumpFile(w *Writer, at int, name, path string, executable bool, size uint64) error {
	return readFile(at, name, path, size, func(contents io.Reader) error { return w.File(path, executable, size, contents) })
}

// readFile hands the contents of a file of that size to read.
func readFile(at int, name, path string, size uint64, read func(io.Reader) error) error {
	// O_NONBLOCK: should a pipe have taken the file's place, opening it must not wait for a writer.
	fd, err := open(at, name, unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &stat) }); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || uint64(stat.Size) != size {
		return &FormatError{Path: path, Reason: "the file changed while it was read"}
	}
	return read(fdReader(fd))
}

func measureFile(w *Writer, _ int, _, path string, executable bool, size uint64) error {
	if err := w.beginFile(path, executable, size); err != nil {
		return err
	}
	w.size += size
	return w.endFile(size)
}

// fdReader reads a regular file, past the poller that os.File would ask in vain.
type fdReader int

func (r fdReader) Read(data []byte) (int, error) {
	n := 0
	err := retry(func() (err error) {
		n, err = unix.Read(int(r), data)
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case n == 0 && len(data) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func open(at int, name string, flags int) (int, error) {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
		return err
	})
	return fd, err
}

func readLink(at int, name string) (string, error) {
	target := make([]byte, MaxTargetLength+1)
	n := 0
	err := retry(func() (err error) {
		n, err = unix.Readlinkat(at, name, target)
		return err
	})
	if err != nil {
		return "", err
	}
	return string(target[:n]), nil
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
