package state

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"fleet/secretsgen/secret"
)

// WriteError says that a secret could not be written. The state has the value that it had.
type WriteError struct {
	ID  secret.ID
	Err error
}

func (e *WriteError) Error() string { return fmt.Sprintf("write secret %s: %v", e.ID, e.Err) }
func (e *WriteError) Unwrap() error { return e.Err }

// Hint is the remedy.
func (e *WriteError) Hint() string {
	return "run it where the flake's work tree can be written and has room; the secret is as it was"
}

// Put writes the whole secret in one step, and tells git of new files. Where nothing differs from what is there, not one byte and no time of
// a file changes. An entry that [Store.Load] would call broken is refused, and so is one whose copies are not all of its generation. The error
// is an [*UntrackedError] where only git was not told.
func (s *Store) Put(ctx context.Context, e *Entry) error {
	files, err := s.complete(e)
	if err != nil {
		return &WriteError{ID: e.ID, Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed, err := s.replace(e.ID, files)
	switch {
	case err != nil:
		return &WriteError{ID: e.ID, Err: err}
	case !changed:
		return nil
	}
	return s.track(ctx, s.Path(e.ID))
}

// complete renders an entry and proves that reading it gives a whole secret.
func (s *Store) complete(e *Entry) (content, error) {
	if err := e.ID.Validate(); err != nil {
		return nil, err
	}
	files, err := render(e)
	if err != nil {
		return nil, err
	}
	return files, whole(parse(s.fleet, s.Path(e.ID), e.ID, files))
}

// whole says why an entry is not one value with all that belongs to it.
func whole(e *Entry) error {
	if e.Err != nil {
		return e.Err
	}
	if len(e.Owners) == 0 {
		return errors.New("it has no owner")
	}
	host, ofHost := e.ID.Scope.Host()
	for _, owner := range slices.Sorted(maps.Keys(e.Owners)) {
		switch {
		case e.Owners[owner].Gen != e.Meta.Gen:
			return fmt.Errorf("the copy of host %q is of generation %s, and meta.json is of %s", owner, e.Owners[owner].Gen, e.Meta.Gen)
		case ofHost && owner != host:
			return fmt.Errorf("host %q cannot own a secret of host %q", owner, host)
		}
	}
	return nil
}

// replace exchanges a secret's folder for one with these files, unless it has just these.
func (s *Store) replace(id secret.ID, files content) (changed bool, err error) {
	root, err := s.makeRoot()
	if err != nil {
		return false, err
	}
	defer root.Close()
	parent, err := makeFolders(root, path.Dir(secretPath(id)))
	if err != nil {
		return false, err
	}
	defer parent.Close()
	old, clean := present(parent, id.Name)
	differ := differing(old, files)
	if len(differ) == 0 && clean {
		return false, nil
	}
	if err := exchangeFolder(parent, id.Name, files, old); err != nil {
		return false, err
	}
	for _, file := range differ {
		s.written[path.Join(s.Path(id), file)] = true
	}
	return true, nil
}

// makeFolders opens a folder below root, making what is missing; no link is followed. The caller closes what it gets.
func makeFolders(root *os.Root, folder string) (*os.Root, error) {
	return walk(root, folder, func(at *os.Root, name string) error {
		if err := at.Mkdir(name, 0o755); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// openFolders opens a folder below root; no link is followed.
func openFolders(root *os.Root, folder string) (*os.Root, error) {
	return walk(root, folder, func(*os.Root, string) error { return nil })
}

func walk(root *os.Root, folder string, before func(at *os.Root, name string) error) (*os.Root, error) {
	at := root
	for name := range strings.SplitSeq(folder, "/") {
		var next *os.Root
		err := before(at, name)
		if err == nil {
			next, err = openFolder(at, name)
		}
		if at != root {
			err = errors.Join(err, at.Close())
		}
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// present reads what is there now. clean is false where that is not just files of a secret, so that it has to be replaced in any case.
func present(parent *os.Root, name string) (old content, clean bool) {
	var left atomic.Int64
	left.Store(maxAll)
	old, broken, err := readSecret(parent, name, &left)
	if err != nil {
		return nil, errors.Is(err, fs.ErrNotExist)
	}
	return old, len(broken) == 0
}

func differing(old, files content) []string {
	var changed []string
	for file, data := range files {
		if before, ok := old[file]; !ok || !bytes.Equal(before, data) {
			changed = append(changed, file)
		}
	}
	for file := range old {
		if _, ok := files[file]; !ok {
			changed = append(changed, file)
		}
	}
	slices.Sort(changed)
	return changed
}

// makeRoot opens the fleet's state, and makes it where there is none.
func (s *Store) makeRoot() (*os.Root, error) {
	top, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	root, err := makeFolders(top, s.folder())
	if err != nil {
		return nil, err
	}
	if err := s.ensureFormat(root); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// ensureFormat writes the format file where there is none, and refuses another format.
func (s *Store) ensureFormat(root *os.Root) error {
	if _, err := root.Lstat("format"); err == nil {
		return checkFormat(root, s.folder())
	}
	suffix, err := randomSuffix()
	if err != nil {
		return err
	}
	temp := ".format-" + suffix
	if err := writeFile(root, temp, []byte(formatText)); err != nil {
		return errors.Join(err, ignoreMissing(root.Remove(temp)))
	}
	if err := root.Rename(temp, "format"); err != nil {
		return errors.Join(err, root.Remove(temp))
	}
	s.written[path.Join(s.folder(), "format")] = true
	return nil
}

func randomSuffix() (string, error) {
	var b [suffixBytes]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// exchangeFolder makes a new folder beside the old one and exchanges the two. Files that do not change are linked, not copied, so
// that adding an owner to many touches one file.
func exchangeFolder(parent *os.Root, name string, files, old content) error {
	suffix, err := randomSuffix()
	if err != nil {
		return err
	}
	fresh := newPrefix + name + "-" + suffix
	if err := buildFolder(parent, fresh, name, files, old); err != nil {
		return errors.Join(err, parent.RemoveAll(fresh))
	}
	dir, err := parent.Open(".")
	if err != nil {
		return errors.Join(err, parent.RemoveAll(fresh))
	}
	defer dir.Close()
	if _, err := parent.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		if err := parent.Rename(fresh, name); err != nil {
			return errors.Join(err, parent.RemoveAll(fresh))
		}
		return dir.Sync()
	}
	switch err := swap(dir, fresh, name); {
	case err == nil:
		// What was the old folder has the new one's name now. A reader ignores it, and the next writer tries again.
		err := dir.Sync()
		_ = parent.RemoveAll(fresh)
		return err
	case !cannotSwap(err):
		return errors.Join(err, parent.RemoveAll(fresh))
	}
	if err := swapSlowly(parent, name, suffix); err != nil {
		return errors.Join(err, parent.RemoveAll(fresh))
	}
	return dir.Sync()
}

// syncing bounds how many files of a secret are made durable at once.
const syncing = 16

func buildFolder(parent *os.Root, fresh, name string, files, old content) error {
	if err := parent.Mkdir(fresh, 0o755); err != nil {
		return err
	}
	folders := map[string]bool{}
	for file := range files {
		if folder := path.Dir(file); folder != "." && !folders[folder] {
			folders[folder] = true
			if err := parent.Mkdir(path.Join(fresh, folder), 0o755); err != nil {
				return err
			}
		}
	}
	var group errgroup.Group
	group.SetLimit(syncing)
	for file, data := range files {
		group.Go(func() error {
			if before, ok := old[file]; ok && bytes.Equal(before, data) && parent.Link(path.Join(name, file), path.Join(fresh, file)) == nil {
				return nil
			}
			return writeFile(parent, path.Join(fresh, file), data)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for folder := range folders {
		if err := syncFolder(parent, path.Join(fresh, folder)); err != nil {
			return err
		}
	}
	return syncFolder(parent, fresh)
}

// writeFile writes a new file and makes it durable.
func writeFile(root *os.Root, name string, data []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
