package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// holds says whether the generation in use is exactly these files, down to owners, modes and contents.
func (p *place) holds(files []file) bool {
	if p.current == nil {
		return false
	}
	want := map[string]file{}
	for _, f := range files {
		want[f.path] = f
		if f.alias != "" {
			want[f.alias] = f
		}
	}
	dirs := map[string]bool{".": true}
	for _, dir := range foldersOf(files) {
		dirs[dir] = true
	}
	count := 0
	err := fs.WalkDir(p.current.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		count++
		if entry.IsDir() {
			return p.current.sameFolder(name, dirs[name])
		}
		f, ok := want[name]
		if !ok {
			return errDiffers
		}
		return p.current.sameFile(name, f)
	})
	return err == nil && count == len(want)+len(dirs)
}

var errDiffers = errors.New("it differs")

func (g *generation) sameFolder(name string, wanted bool) error {
	info, err := g.root.Lstat(name)
	if err != nil {
		return err
	}
	if !wanted || ownershipOf(info) != (ownership{Mode: folderMode}) {
		return errDiffers
	}
	return nil
}

func (g *generation) sameFile(name string, f file) error {
	info, err := g.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || ownershipOf(info) != f.own || info.Size() != int64(f.data.Len()) {
		return errDiffers
	}
	if name == f.alias {
		first, err := g.root.Lstat(f.path)
		if err != nil || !os.SameFile(first, info) {
			return errDiffers
		}
		return nil
	}
	data, err := g.root.ReadFile(name)
	if err != nil {
		return err
	}
	defer clear(data)
	if !bytes.Equal(data, f.data.Bytes()) {
		return errDiffers
	}
	return nil
}

// swap puts a generation in use, by one rename.
func (p *place) swap(number uint64, r record) error {
	if err := p.swapLink(path.Join(p.folder(), generationName(number))); err != nil {
		return errors.Join(fmt.Errorf("install secrets: put generation %d in use: %w", number, err), p.base.RemoveAll(generationName(number)))
	}
	root, err := p.base.OpenRoot(generationName(number))
	if err != nil {
		return fmt.Errorf("install secrets: %w", err)
	}
	if p.current != nil {
		p.current.root.Close()
	}
	p.current = &generation{number, root, r}
	return nil
}

func (p *place) swapLink(target string) error {
	fresh := p.fresh()
	if err := p.root.Symlink(target, fresh); err != nil {
		return err
	}
	p.opt.observe("made the link")
	info, err := p.root.Lstat(p.name)
	if err == nil && info.IsDir() {
		return p.replaceFolder(fresh)
	}
	return p.root.Rename(fresh, p.name)
}

// fresh is the name of the link before it takes the place of the one that is there.
func (p *place) fresh() string { return "." + p.name + ".new" }

// removeFresh removes what an installer that was killed has left of a swap.
func (p *place) removeFresh() error {
	info, err := p.root.Lstat(p.fresh())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir(): // replaceFolder was interrupted
		return p.setAside(p.fresh())
	}
	return p.root.Remove(p.fresh())
}

// replaceFolder moves aside what another tool has made in place of the link. It is in /run, so that the next boot is without it.
func (p *place) replaceFolder(fresh string) error {
	dir, err := p.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	fd := int(dir.Fd())
	if err := unix.Renameat2(fd, fresh, fd, p.name, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("move the folder %q aside: %w", p.opt.below(p.name), err)
	}
	return p.setAside(fresh)
}

func (p *place) setAside(folder string) error {
	aside := p.name + ".before-fleet"
	if _, err := p.root.Lstat(aside); err == nil {
		aside = fmt.Sprintf("%s-%d", aside, time.Now().UnixNano())
	}
	p.opt.Log(fmt.Sprintf("moved the folder %s of another tool to %s", p.opt.below(p.name), p.opt.below(aside)))
	return p.root.Rename(folder, aside)
}

// prune removes all generations but the one in use: in the one before are values that are no longer declared, and files that belong to whom they
// belonged to before.
func (p *place) prune() error {
	list, err := p.numbers()
	for _, n := range list {
		if n == p.current.number {
			continue
		}
		err = errors.Join(err, p.base.RemoveAll(generationName(n)))
		p.opt.observe("pruned " + generationName(n))
	}
	if err != nil {
		return fmt.Errorf("install secrets: remove old generations: %w", err)
	}
	return nil
}
