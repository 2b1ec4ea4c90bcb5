package nar

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// MaxViewStructure bounds what a [View] holds in memory, in bytes: all of the NAR but the contents of files. A directory of a million entries
	// has some 200 MB of it; no store path of nixpkgs comes near the bound.
	MaxViewStructure = 32 << 20
	// openFiles is how many files a View keeps open. Deltas go back and forth between a few.
	openFiles = 16
)

// View is the NAR of what is at a path, as bytes that can be read at any offset, without the NAR being anywhere. It walks the tree once, when it is
// opened, and reads files when they are asked for. It is safe for concurrent use.
type View struct {
	path string
	// root is the directory at path; nil where there is none.
	root *os.Root
	size int64
	// structure is the NAR without the contents of files.
	structure []byte
	files     []viewFile

	mu sync.Mutex
	// open are the files that were read last, the newest at the end.
	open []openFile
}

// viewFile is a file in the NAR: its contents begin at the offset at, and before is what all files before it hold.
type viewFile struct {
	at, size, before int64
	name             string
}

type openFile struct {
	index int
	file  *os.File
}

// OpenView walks the tree at path as [Dump] does. A tree whose structure exceeds [MaxViewStructure] is an error. Close the View.
func OpenView(path string) (*View, error) {
	v := &View{path: path}
	w := NewWriter(&structure{v: v})
	d := dumper{w: w, file: v.add}
	if err := d.node(unix.AT_FDCWD, path, ""); err != nil {
		return nil, fmt.Errorf("nar: view %q: %w", path, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("nar: view %q: %w", path, err)
	}
	v.size = int64(w.Size())
	if len(v.files) == 0 || v.files[0].name == "" {
		return v, nil
	}
	var err error
	if v.root, err = os.OpenRoot(path); err != nil {
		return nil, fmt.Errorf("nar: view: %w", err)
	}
	return v, nil
}

// add records a file of the walk, whose contents the writer does not get.
func (v *View) add(w *Writer, _ int, _, name string, executable bool, size uint64) error {
	if err := w.beginFile(name, executable, size); err != nil {
		return err
	}
	f := viewFile{at: int64(w.Size()), size: int64(size), name: name}
	if n := len(v.files); n > 0 {
		f.before = v.files[n-1].before + v.files[n-1].size
	}
	v.files = append(v.files, f)
	w.size += size
	return w.endFile(size)
}

// structure takes what a writer writes when it is given no contents.
type structure struct{ v *View }

func (s *structure) Write(p []byte) (int, error) {
	if len(s.v.structure)+len(p) > MaxViewStructure {
		return 0, fmt.Errorf("its structure has more than %d bytes", MaxViewStructure)
	}
	s.v.structure = append(s.v.structure, p...)
	return len(p), nil
}

// Size is that of the NAR, in bytes.
func (v *View) Size() int64 { return v.size }

// ReadAt reads the NAR's bytes at an offset, as [io.ReaderAt] says. A file that has changed its size since the walk is an error.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("nar: view: negative offset")
	}
	done := 0
	for done < len(p) && off < v.size {
		n, err := v.readPiece(p[done:], off)
		done, off = done+n, off+int64(n)
		if err != nil {
			return done, fmt.Errorf("nar: view %q: %w", v.path, err)
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readPiece reads at most to the end of a file, or to the beginning of the next one.
func (v *View) readPiece(p []byte, off int64) (int, error) {
	next := sort.Search(len(v.files), func(i int) bool { return v.files[i].at > off })
	end, skipped := v.size, int64(0)
	if next < len(v.files) {
		end = v.files[next].at
	}
	if next > 0 {
		f := v.files[next-1]
		if off < f.at+f.size {
			return v.readFile(next-1, p[:min(int64(len(p)), f.at+f.size-off)], off-f.at)
		}
		skipped = f.before + f.size
	}
	return copy(p[:min(int64(len(p)), end-off)], v.structure[off-skipped:]), nil
}

func (v *View) readFile(index int, p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	file, err := v.opened(index)
	if err != nil {
		return 0, err
	}
	n, err := file.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = &FormatError{Path: v.files[index].name, Reason: "the file changed while it was read"}
		if n == len(p) {
			err = nil
		}
	}
	return n, err
}

// opened returns the file, and makes it the newest. v.mu is held.
func (v *View) opened(index int) (*os.File, error) {
	for i := len(v.open) - 1; i >= 0; i-- {
		if o := v.open[i]; o.index == index {
			copy(v.open[i:], v.open[i+1:])
			v.open[len(v.open)-1] = o
			return o.file, nil
		}
	}
	file, err := v.openFile(v.files[index])
	if err != nil {
		return nil, err
	}
	if len(v.open) == openFiles {
		_ = v.open[0].file.Close() // it was only read
		v.open = v.open[:copy(v.open, v.open[1:])]
	}
	v.open = append(v.open, openFile{index, file})
	return file, nil
}

func (v *View) openFile(f viewFile) (*os.File, error) {
	// Should a pipe have taken the file's place, opening it must not wait for a writer.
	const flags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	var file *os.File
	var err error
	if v.root == nil {
		file, err = os.OpenFile(v.path, flags, 0)
	} else if err = v.plain(f); err == nil {
		file, err = v.root.OpenFile(f.name, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	return checkFile(file, f)
}

// plain refuses what has become a symlink: a Root follows those that stay below it, whatever the flags say.
func (v *View) plain(f viewFile) error {
	stat, err := v.root.Lstat(f.name)
	if err == nil && !stat.Mode().IsRegular() {
		err = &FormatError{Path: f.name, Reason: "the file changed since it was looked at"}
	}
	return err
}

// checkFile closes a file that is not what the walk has seen.
func checkFile(file *os.File, f viewFile) (*os.File, error) {
	stat, err := file.Stat()
	if err == nil && (!stat.Mode().IsRegular() || stat.Size() != f.size) {
		err = &FormatError{Path: f.name, Reason: "the file changed since it was looked at"}
	}
	if err != nil {
		_ = file.Close() // it was only read
		return nil, err
	}
	return file, nil
}

// Close closes what is open. Reading afterwards may open it anew.
func (v *View) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, o := range v.open {
		errs = append(errs, o.file.Close())
	}
	v.open = nil
	if v.root != nil {
		errs = append(errs, v.root.Close())
	}
	return errors.Join(errs...)
}
