package direct

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"fleet/closure"
	"fleet/closure/nar"
	"fleet/closure/storepath"
)

const (
	extractBuffer = 256 << 10
	// storeTime is when all files of a store were last changed, in seconds after the epoch (libstore/posix-fs-canonicalise.cc).
	storeTime = 1
)

// PathError says that the contents of a path could not be written to the store.
type PathError struct {
	Path storepath.Path
	Err  error
}

func (e *PathError) Error() string { return fmt.Sprintf("extract %q: %v", e.Path, e.Err) }

func (e *PathError) Unwrap() error { return e.Err }

// extractor writes NARs into a store folder, one after the other.
type extractor struct {
	buffer *bufio.Reader
	store  int
	cloner *cloner
}

func newExtractor(store int, cloner *cloner) *extractor {
	return &extractor{buffer: bufio.NewReaderSize(nil, extractBuffer), store: store, cloner: cloner}
}

// extract makes the path, which must not exist, from its NAR. Files share with those of base what they can, where it is not the zero Path. When it fails, nothing
// of it is left. The error is a [*closure.CorruptError] where the NAR is not the one of info, and else a [*PathError], or that of r or ctx.
func (e *extractor) extract(ctx context.Context, info closure.PathInfo, base storepath.Path, r io.Reader) error {
	source := &contextReader{ctx: ctx, r: closure.VerifyReader(info, r)}
	e.buffer.Reset(source)
	t := &tree{ctx: ctx, store: e.store, root: info.Path.Base(), base: base, cloner: e.cloner, left: func() uint64 {
		return info.NarSize - source.count + uint64(e.buffer.Buffered())
	}}
	err := e.parse(t)
	t.close(err == nil)
	if err == nil {
		err = t.err
	}
	if err == nil {
		return nil
	}
	err = e.explain(info, source, err)
	if t.made {
		err = errors.Join(err, removeTree(e.store, t.root))
	}
	return err
}

func (e *extractor) parse(t *tree) error {
	if err := nar.ParseStream(e.buffer, t); errors.Is(err, io.ErrUnexpectedEOF) {
		return &nar.FormatError{Reason: "it is cut"}
	} else if err != nil {
		return err
	}
	if _, err := e.buffer.ReadByte(); err == nil {
		return &nar.FormatError{Reason: "there is more after its end"}
	} else if err != io.EOF {
		return err
	}
	return nil
}

// explain finds the error that says most. A NAR that cannot be parsed is most often one that was damaged, which its hash tells.
func (e *extractor) explain(info closure.PathInfo, source *contextReader, err error) error {
	if format, ok := errors.AsType[*nar.FormatError](err); ok {
		if _, rest := io.Copy(io.Discard, e.buffer); rest != nil {
			err = rest
		} else {
			err = &PathError{Path: info.Path, Err: format}
		}
	}
	if corrupt, ok := errors.AsType[*closure.CorruptError](err); ok {
		return corrupt
	}
	if source.err != nil {
		return source.err
	}
	if _, ok := errors.AsType[*PathError](err); ok {
		return err
	}
	return &PathError{Path: info.Path, Err: err}
}

// contextReader counts what it reads, ends with its context, and remembers why it failed.
type contextReader struct {
	ctx   context.Context
	r     io.Reader
	count uint64
	err   error
}

func (r *contextReader) Read(data []byte) (int, error) {
	if r.ctx.Err() != nil {
		r.err = context.Cause(r.ctx)
		return 0, r.err
	}
	n, err := r.r.Read(data)
	r.count += uint64(n)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// tree writes the nodes of one NAR. Names were checked by the parser, each is opened in the folder that holds it, and no symlink is ever followed.
type tree struct {
	ctx   context.Context
	store int
	// root is the root's name in the store.
	root string
	// base is the path whose files the cloner may use.
	base   storepath.Path
	cloner *cloner
	// left is how many bytes of the NAR are left.
	left func() uint64
	// open are the folders that are being filled, from the root on.
	open []folder
	made bool
	err  error
}

type folder struct {
	path string
	fd   int
}

var _ nar.Handler = (*tree)(nil)

// at finishes the folders that the node at path is not in, and returns the one that it is in, and its name there.
func (t *tree) at(path string) (dir int, name string, err error) {
	if err := t.ctx.Err(); err != nil {
		return -1, "", context.Cause(t.ctx)
	}
	if path == "" {
		return t.store, t.root, nil
	}
	parent := ""
	name = path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	for t.open[len(t.open)-1].path != parent {
		if err := t.leave(); err != nil {
			return -1, "", err
		}
	}
	return t.open[len(t.open)-1].fd, name, nil
}

// leave finishes the innermost folder: nothing is added to it any more.
func (t *tree) leave() error {
	last := t.open[len(t.open)-1]
	t.open = t.open[:len(t.open)-1]
	err := unix.Fchmod(last.fd, 0o555)
	if closeErr := unix.Close(last.fd); err == nil {
		err = closeErr
	}
	dir, name := t.store, t.root
	if last.path != "" {
		dir, name = t.open[len(t.open)-1].fd, last.path[strings.LastIndexByte(last.path, '/')+1:]
	}
	if err == nil {
		err = setTime(dir, name)
	}
	return nodeError("finish folder", last.path, err)
}

// close ends the tree. It finishes all folders, or only closes them.
func (t *tree) close(finish bool) {
	for len(t.open) > 0 {
		if finish && t.err == nil {
			t.err = t.leave()
			continue
		}
		_ = unix.Close(t.open[len(t.open)-1].fd)
		t.open = t.open[:len(t.open)-1]
	}
}

func (t *tree) Directory(path string) error {
	dir, name, err := t.at(path)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return nodeError("make folder", path, err)
	}
	t.made = true
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nodeError("open folder", path, err)
	}
	t.open = append(t.open, folder{path: path, fd: fd})
	return nil
}

// File refuses a file that is larger than the rest of its NAR before it exists.
func (t *tree) File(path string, executable bool, size uint64, contents io.Reader) error {
	if left := t.left(); size > left {
		return &nar.FormatError{Path: path, Reason: fmt.Sprintf("a file of %d bytes in the last %d bytes of a NAR", size, left)}
	}
	dir, name, err := t.at(path)
	if err != nil {
		return err
	}
	mode := uint32(0o444)
	if executable {
		mode = 0o555
	}
	fd, err := openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
	if err != nil {
		return nodeError("make file", path, err)
	}
	t.made = true
	err = t.write(fd, path, size, contents)
	if err == nil {
		// Once more, since the process may have a umask.
		err = unix.Fchmod(fd, mode)
	}
	if closeErr := unix.Close(fd); err == nil {
		err = nodeError("close", "", closeErr)
	}
	if err == nil {
		err = setTime(dir, name)
	}
	return nodeError("write file", path, err)
}

// write writes the contents of the new file at path.
func (t *tree) write(fd int, path string, size uint64, contents io.Reader) error {
	if err := t.cloner.share(fd, t.base, path, size, contents); err != nil {
		return err
	}
	_, err := io.Copy(descriptor(fd), contents)
	return err
}

// descriptor writes to a file descriptor.
type descriptor int

func (d descriptor) Write(data []byte) (int, error) {
	for written := 0; ; {
		n, err := unix.Write(int(d), data[written:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return written, err
		}
		if written += n; written == len(data) {
			return written, nil
		}
	}
}

func (t *tree) Symlink(path, target string) error {
	dir, name, err := t.at(path)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(target, dir, name); err != nil {
		return nodeError("make symlink", path, err)
	}
	t.made = true
	return nodeError("set time of symlink", path, setTime(dir, name))
}

// setTime sets when a node was last changed, and leaves when it was last read.
func setTime(dir int, name string) error {
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: storeTime}}, unix.AT_SYMLINK_NOFOLLOW)
}

func nodeError(action, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", action, path, err)
}
