package nar

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// maxHandles is how many files and directories a View keeps open. Reading in sequence needs one file and the directories around it,
	// a delta goes back and forth between a few.
	maxHandles = 64
	// maxPread is the most that is read at once: macOS refuses 2 GiB.
	maxPread = 1 << 30
)

// handle is a file or directory that is open. All but fd is guarded by the View's mutex.
type handle struct {
	fd int
	// node is the index of a file, or -1 less the index of a directory.
	node int
	// users are reading. A handle that was forgotten meanwhile is closed by the last of them.
	users     int
	forgotten bool
}

// contents reads all of p from a file.
func (v *View) contents(p []byte, off int64, file int) (int, error) {
	h, err := v.acquire(file)
	if err != nil {
		return 0, err
	}
	defer v.release(h)
	done := 0
	for done < len(p) {
		n, err := pread(h.fd, p[done:min(len(p), done+maxPread)], off+int64(done))
		if err != nil {
			return done, &os.PathError{Op: "read", Path: v.filePath(v.files[file]), Err: err}
		}
		if n == 0 {
			return done, v.changed(file)
		}
		done += n
	}
	return done, nil
}

func pread(fd int, p []byte, off int64) (int, error) {
	for {
		if n, err := unix.Pread(fd, p, off); err != unix.EINTR {
			return n, err
		}
	}
}

// acquire opens a file, unless it is open. Release it.
func (v *View) acquire(file int) (*handle, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, os.ErrClosed
	}
	h := v.find(file)
	if h == nil {
		fd, err := v.openFile(file)
		if err != nil {
			return nil, err
		}
		h = v.keep(file, fd)
	}
	h.users++
	return h, nil
}

func (v *View) release(h *handle) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h.users--
	if h.users == 0 && h.forgotten {
		_ = unix.Close(h.fd) // it was only read
	}
}

// find returns what is open, and makes it the newest.
func (v *View) find(node int) *handle {
	for i, h := range slices.Backward(v.open) {
		if h.node == node {
			copy(v.open[i:], v.open[i+1:])
			v.open[len(v.open)-1] = h
			return h
		}
	}
	return nil
}

// keep adds what was opened as the newest, in place of the oldest.
func (v *View) keep(node, fd int) *handle {
	if len(v.open) == maxHandles {
		v.forget(v.open[0])
		v.open = v.open[:copy(v.open, v.open[1:])]
	}
	h := &handle{node: node, fd: fd}
	v.open = append(v.open, h)
	return h
}

func (v *View) forget(h *handle) {
	h.forgotten = true
	if h.users == 0 {
		_ = unix.Close(h.fd) // it was only read
	}
}

// openFile opens a file, which must be what the walk has seen. Each directory is opened in the one above it, and no symlink is
// followed, so what it opens lies in the tree.
func (v *View) openFile(file int) (int, error) {
	f := v.files[file]
	at, name := unix.AT_FDCWD, v.path
	if f.dir >= 0 {
		var err error
		if at, err = v.directory(f.dir); err != nil {
			return -1, err
		}
		name = v.text(f.name)
	}
	// O_NONBLOCK: should a pipe have taken the file's place, opening it must not wait for a writer.
	fd, err := open(at, name, unix.O_NONBLOCK|unix.O_NOCTTY)
	if errors.Is(err, unix.ELOOP) {
		return -1, v.changed(file)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: v.filePath(f), Err: err}
	}
	var stat unix.Stat_t
	if err = retry(func() error { return unix.Fstat(fd, &stat) }); err != nil {
		err = &os.PathError{Op: "stat", Path: v.filePath(f), Err: err}
	} else if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Size != v.fileSize(f) {
		err = v.changed(file)
	}
	if err != nil {
		_ = unix.Close(fd) // it was only read
		return -1, err
	}
	return fd, nil
}

// directory opens a directory, unless it is open. It stays open until as many others as are kept have been opened.
func (v *View) directory(dir int32) (int, error) {
	if dir == 0 {
		return v.rootDirectory()
	}
	node := -1 - int(dir)
	if h := v.find(node); h != nil {
		return h.fd, nil
	}
	at, err := v.directory(v.dirs[dir].parent)
	if err != nil {
		return -1, err
	}
	fd, err := open(at, v.text(v.dirs[dir].name), unix.O_DIRECTORY)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: v.dirPath(dir), Err: err}
	}
	return v.keep(node, fd).fd, nil
}

// rootDirectory stays open, so that all files come from the same tree.
func (v *View) rootDirectory() (int, error) {
	if v.root >= 0 {
		return v.root, nil
	}
	fd, err := open(unix.AT_FDCWD, v.path, unix.O_DIRECTORY)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: v.path, Err: err}
	}
	v.root = fd
	return fd, nil
}

func (v *View) changed(file int) error {
	return &FormatError{Path: v.filePath(v.files[file]), Reason: "the file changed since it was looked at"}
}

// filePath is a file's path in the tree, empty for the root.
func (v *View) filePath(f viewFile) string {
	if f.dir < 0 {
		return ""
	}
	return joinPath(v.dirPath(f.dir), v.text(f.name))
}

func (v *View) dirPath(dir int32) string {
	if dir == 0 {
		return ""
	}
	return joinPath(v.dirPath(v.dirs[dir].parent), v.text(v.dirs[dir].name))
}

// Close closes what is open, and waits for who reads. Reading afterwards is an error.
func (v *View) Close() error {
	v.reading.Lock()
	defer v.reading.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	for _, h := range v.open {
		v.forget(h)
	}
	v.open = nil
	if v.root >= 0 {
		_ = unix.Close(v.root) // it was only read
		v.root = -1
	}
	if v.mapped {
		_ = unix.Munmap(v.structure) // it was only read
		v.structure, v.mapped = nil, false
	}
	return nil
}
