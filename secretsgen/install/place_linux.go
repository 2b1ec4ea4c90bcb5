package install

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// folderMode lets everybody reach the files that are theirs, and only root list what there is.
const folderMode fs.FileMode = 0o751

// place is where the generations of one phase are: PLACE.d/NUMBER, and the link PLACE to the one in use.
type place struct {
	opt  Options
	root *os.Root
	base *os.Root
	name string
	// current is the generation in use; nil where there is none of ours.
	current *generation
}

// generation is a complete generation.
type generation struct {
	number uint64
	root   *os.Root
	record record
}

// openPlace opens the folder of generations, makes and mounts it where it is not there, and removes what an installer that was killed has left.
func openPlace(root *os.Root, opt Options, size uint64) (*place, error) {
	p := &place{opt: opt, root: root, name: opt.Phase.folder()}
	if err := makeFolder(root, p.folder()); err != nil {
		return nil, fmt.Errorf("install secrets: %w", err)
	}
	if opt.Mount {
		if err := mountMemory(opt.below(p.folder()), size); err != nil {
			return nil, err
		}
	}
	var err error
	if p.base, err = root.OpenRoot(p.folder()); err != nil {
		return nil, fmt.Errorf("install secrets: %w", err)
	}
	if err := errors.Join(p.removeFresh(), p.findGenerations()); err != nil {
		p.close()
		return nil, fmt.Errorf("install secrets: look for generations in %q: %w", opt.below(p.folder()), err)
	}
	return p, nil
}

func (p *place) folder() string { return p.name + ".d" }

// makeFolder makes a folder of ours, or sets right one that is there.
func makeFolder(root *os.Root, name string) error {
	if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%q is no folder", path.Join(root.Name(), name))
	}
	return setOwnership(root, name, info, ownership{Mode: folderMode})
}

// setOwnership changes owner and mode of a folder where they are others.
func setOwnership(root *os.Root, name string, info fs.FileInfo, want ownership) error {
	is := ownershipOf(info)
	if is.UID != want.UID || is.GID != want.GID {
		if err := root.Lchown(name, want.UID, want.GID); err != nil {
			return err
		}
	}
	if is.Mode != want.Mode {
		return root.Chmod(name, want.Mode)
	}
	return nil
}

func ownershipOf(info fs.FileInfo) ownership {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ownership{UID: -1, GID: -1}
	}
	return ownership{int(stat.Uid), int(stat.Gid), fileMode(stat.Mode & 0o7777)}
}

// fileMode keeps all twelve bits as they are in the kernel: an unexpected setuid bit is a difference.
func fileMode(bits uint32) fs.FileMode { return fs.FileMode(bits) }

func (p *place) close() {
	if p.current != nil {
		p.current.root.Close()
	}
	p.base.Close()
}

// numbers lists the generations that are there, complete or not.
func (p *place) numbers() ([]uint64, error) {
	entries, err := fs.ReadDir(p.base.FS(), ".")
	if err != nil {
		return nil, err
	}
	var list []uint64
	for _, e := range entries {
		if n, ok := parseGeneration(e.Name()); ok {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}

func parseGeneration(name string) (uint64, bool) {
	n, err := strconv.ParseUint(name, 10, 63)
	return n, err == nil && n > 0 && strconv.FormatUint(n, 10) == name
}

func (p *place) findGenerations() error {
	list, err := p.numbers()
	if err != nil {
		return err
	}
	target, err := p.root.Readlink(p.name)
	if err != nil {
		return nil // no link, or a folder: swap has words for that
	}
	number, ok := parseGeneration(strings.TrimPrefix(target, p.folder()+"/"))
	if !ok || path.Dir(target) != p.folder() {
		return nil
	}
	if p.current = p.open(number); p.current == nil {
		return nil
	}
	for _, n := range list {
		if n > number { // begun by an installer that was killed
			if err := p.base.RemoveAll(generationName(n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func generationName(n uint64) string { return strconv.FormatUint(n, 10) }

// open opens a generation; nil for one that is not complete, or not of ours.
func (p *place) open(number uint64) *generation {
	root, err := p.base.OpenRoot(generationName(number))
	if err != nil {
		return nil
	}
	data, err := root.ReadFile(recordFile)
	if err == nil {
		var r record
		if r, err = decodeRecord(data); err == nil {
			return &generation{number, root, r}
		}
	}
	root.Close()
	return nil
}

// earlierRecords are the records of all that was in use before, also of what an installer that was killed has not removed.
func (p *place) earlierRecords() []record {
	list, err := p.numbers()
	if err != nil {
		return nil // prune says so
	}
	var records []record
	for _, n := range list {
		if n == p.current.number {
			continue
		}
		if g := p.open(n); g != nil {
			records = append(records, g.record)
			g.root.Close()
		}
	}
	return records
}

// write makes a new generation, which is in use by nobody. Where that fails, nothing is left of it.
func (p *place) write(files []file) (number uint64, err error) {
	list, err := p.numbers()
	if err != nil {
		return 0, fmt.Errorf("install secrets: %w", err)
	}
	number = 1
	if len(list) > 0 {
		number = list[len(list)-1] + 1
	}
	name := generationName(number)
	defer func() {
		if err != nil {
			err = errors.Join(p.writeError(err), p.base.RemoveAll(name))
		}
	}()
	if err := p.base.Mkdir(name, 0o700); err != nil {
		return 0, err
	}
	root, err := p.base.OpenRoot(name)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	for _, dir := range foldersOf(files) {
		if err := makeFolder(root, dir); err != nil {
			return 0, err
		}
	}
	for _, f := range files {
		if err := f.write(root); err != nil {
			return 0, err
		}
		p.opt.observe("wrote " + f.path)
	}
	return number, makeFolder(p.base, name) // now that it is complete, owners may enter
}

// foldersOf lists the folders that files are in, parents first.
func foldersOf(files []file) []string {
	dirs := map[string]bool{}
	for _, f := range files {
		if dir := path.Dir(f.path); dir != "." {
			dirs[dir] = true
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}

// write makes the file for its owner alone before anything is in it.
func (f file) write(root *os.Root) error {
	out, err := root.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = out.Chown(f.own.UID, f.own.GID); err == nil {
		err = out.Chmod(f.own.Mode)
	}
	if err == nil {
		_, err = out.Write(f.data.Bytes())
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if f.alias == "" {
		return nil
	}
	return root.Link(f.path, f.alias)
}

// spaceError says that secrets do not fit.
type spaceError struct {
	err    error
	folder string
}

func (e *spaceError) Error() string {
	return fmt.Sprintf("install secrets: %s; the secrets before stay in use", e.err)
}

func (e *spaceError) Unwrap() error { return e.err }

// Hint says what is full.
func (e *spaceError) Hint() string {
	return fmt.Sprintf("make room in %s (df %s), or: mount -o remount,size=SIZE %s", e.folder, e.folder, e.folder)
}

func (p *place) writeError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &spaceError{err, p.opt.below(p.folder())}
	}
	return fmt.Errorf("install secrets: write a generation: %w", err)
}
