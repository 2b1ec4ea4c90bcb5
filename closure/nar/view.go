package nar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// MaxViewStructure bounds the part of a NAR that a [View] holds in memory, in bytes: all of it but the contents of files. That is some
	// 200 bytes an entry, so 150 000 entries; a tree of Linux' sources has 90 000. What is larger lies in a temporary file.
	MaxViewStructure = 32 << 20
	// maxSpill bounds that file: some 2.5 million entries, for which a View holds 60 MB. Offsets in a structure have 32 bits.
	maxSpill = 512 << 20
	// viewBuffer is smaller than that of other writers: most store paths have but a few entries, and the structure is in memory anyway.
	viewBuffer = 512
)

// View is the NAR of what is at a path, as bytes that can be read at any offset, without the NAR being anywhere. It looks at the tree once, when it
// is opened, and reads files when they are asked for. It is safe for concurrent use.
//
// It holds the NAR's structure and 24 bytes for each file that is not empty, and keeps up to 64 files and directories open, beside those that are being read.
type View struct {
	path string
	size int64
	// structure is the NAR without the contents of files. Reading holds reading, since a structure that is mapped is gone once the View is closed.
	structure []byte
	mapped    bool
	reading   sync.RWMutex
	files     []viewFile
	dirs      []viewDir

	mu sync.Mutex
	// open are the files and directories that were used last, the newest at the end.
	open []*handle
	// root is the directory at path, -1 before it is needed.
	root   int
	closed bool
}

// viewFile is a file that is not empty. Its size is in the structure, right before its contents.
type viewFile struct {
	// at is where its contents begin in the NAR.
	at int64
	// skip is where they would begin in the structure, and name where its name is there.
	skip, name uint32
	// dir is the directory that it is in, -1 for the root of the tree.
	dir int32
}

// viewDir is a directory with files or directories in it. The first one is the root of the tree, and has no name.
type viewDir struct {
	name   uint32
	parent int32
}

// OpenView looks at the tree at path as [Dump] does, without reading files. It is an error where the structure has more than 512 MiB. Close the View.
func OpenView(path string) (*View, error) {
	v := &View{path: path, root: -1}
	walk := viewWalk{view: v}
	err := walk.walk(path)
	if walk.spill != nil {
		walk.spill.close()
	}
	if err != nil {
		return nil, fmt.Errorf("nar: view %q: %w", path, err)
	}
	return v, nil
}

// exact returns list without the memory that growing it has left over.
func exact[T any](list []T) []T {
	if cap(list)-len(list) < len(list)/8 {
		return list
	}
	return append(make([]T, 0, len(list)), list...)
}

// viewWalk fills a View. What the writer writes is the structure, since it is given no contents.
type viewWalk struct {
	view *View
	// contents is the size of all files so far, in bytes.
	contents uint64
	// chain are the directories around the last file, the root first.
	chain []viewParent
	// spill has the structure, once it is too large for the View.
	spill *spill
}

// viewParent is a directory around a file: where its entries begin in the NAR, and its index.
type viewParent struct {
	begun uint64
	dir   int32
}

func (k *viewWalk) walk(path string) error {
	v, w := k.view, &Writer{w: bufio.NewWriterSize(k, viewBuffer)}
	d := dumper{w: w, file: k.add}
	if err := d.node(unix.AT_FDCWD, path, ""); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	v.size = int64(w.Size())
	v.structure, v.files, v.dirs = exact(v.structure), exact(v.files), exact(v.dirs)
	if k.spill == nil {
		return nil
	}
	var err error
	v.structure, err = k.spill.bytes()
	v.mapped = err == nil
	return err
}

func (k *viewWalk) Write(p []byte) (int, error) {
	v := k.view
	if k.spill == nil && len(v.structure)+len(p) > MaxViewStructure {
		var err error
		if k.spill, err = newSpill(v.structure); err != nil {
			return 0, err
		}
		v.structure = nil
	}
	if k.spill != nil {
		return k.spill.write(p)
	}
	if n := cap(v.structure); n-len(v.structure) < len(p) {
		// By doubling: append copies more often.
		v.structure = slices.Grow(v.structure, min(max(n, viewBuffer), MaxViewStructure-len(v.structure)))
	}
	v.structure = append(v.structure, p...)
	return len(p), nil
}

// add records a file.
func (k *viewWalk) add(w *Writer, _ int, _, path string, executable bool, size uint64) error {
	if err := w.beginFile(path, executable, size); err != nil {
		return err
	}
	if size > math.MaxInt64/2-k.contents {
		return &FormatError{Path: path, Reason: "it is too large"}
	}
	if size > 0 {
		k.record(w, len(path), executable)
	}
	k.contents += size
	w.size += size
	return w.endFile(size)
}

func (k *viewWalk) record(w *Writer, path int, executable bool) {
	f := viewFile{at: int64(w.size), skip: uint32(w.size - k.contents), dir: -1}
	if path > 0 {
		head := strSize("node", "(", "type", "regular", "contents") + 8
		if executable {
			head += strSize("executable", "")
		}
		f.dir = k.parent(w)
		f.name = f.skip - uint32(head+strSize(w.open[len(w.open)-1].last))
	}
	k.view.files = append(k.view.files, f)
}

// parent returns the directory that the writer is in, and records those that it has not recorded.
func (k *viewWalk) parent(w *Writer) int32 {
	n := min(len(k.chain), len(w.open))
	for n > 0 && k.chain[n-1].begun != w.open[n-1].begun {
		n--
	}
	k.chain = k.chain[:n]
	for i, d := range w.open[n:] {
		dir := viewDir{parent: -1}
		if n+i > 0 {
			dir.parent = k.chain[n+i-1].dir
			name := w.open[n+i-1].last
			// All contents so far lie before the directory: this is the first file in it that has some.
			dir.name = uint32(d.begun-k.contents) - uint32(strSize(name, "node", "(", "type", "directory"))
		}
		k.chain = append(k.chain, viewParent{d.begun, int32(len(k.view.dirs))})
		k.view.dirs = append(k.view.dirs, dir)
	}
	return k.chain[len(k.chain)-1].dir
}

// strSize is how many bytes strings take.
func strSize(values ...string) int {
	size := 0
	for _, value := range values {
		size += 8 + len(value) + padding(uint64(len(value)))
	}
	return size
}

// Size is that of the NAR, in bytes.
func (v *View) Size() int64 { return v.size }

// ReadAt reads the NAR's bytes at an offset, as [io.ReaderAt] says. A file that is not what it was when the View was opened, or has
// another size, is an error.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("nar: view: negative offset")
	}
	v.reading.RLock()
	defer v.reading.RUnlock()
	if v.closed {
		return 0, os.ErrClosed
	}
	next := sort.Search(len(v.files), func(i int) bool { return v.files[i].at > off })
	done := 0
	for done < len(p) && off < v.size {
		if next < len(v.files) && off == v.files[next].at {
			next++
		}
		n, err := v.piece(p[done:], off, next)
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

// piece reads up to the end of a file's contents, or to where the contents of the file next begin, which is the first one behind off.
func (v *View) piece(p []byte, off int64, next int) (int, error) {
	end, at := v.size, off
	if next < len(v.files) {
		end = v.files[next].at
	}
	if next > 0 {
		f := v.files[next-1]
		size := v.fileSize(f)
		if left := f.at + size - off; left > 0 {
			return v.contents(p[:min(int64(len(p)), left)], off-f.at, next-1)
		}
		at = int64(f.skip) + off - f.at - size
	}
	return copy(p[:min(int64(len(p)), end-off)], v.structure[at:]), nil
}

func (v *View) fileSize(f viewFile) int64 {
	return int64(binary.LittleEndian.Uint64(v.structure[f.skip-8:]))
}

// text returns the string at an offset of the structure.
func (v *View) text(at uint32) string {
	size := binary.LittleEndian.Uint64(v.structure[at:])
	return string(v.structure[at+8:][:size])
}

// File is where the contents of a file lie in a NAR.
type File struct {
	// Offset is where they begin, Size how many there are, in bytes.
	Offset, Size int64
}

// Files are the files that are not empty, in the order of the NAR. A View that is closed has none.
func (v *View) Files() iter.Seq[File] {
	return func(yield func(File) bool) {
		v.reading.RLock()
		defer v.reading.RUnlock()
		if v.closed {
			return
		}
		for _, f := range v.files {
			if !yield(File{f.at, v.fileSize(f)}) {
				return
			}
		}
	}
}
