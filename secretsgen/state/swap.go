package state

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
)

// What a writer puts beside a secret's folder begins with a dot, which no name of a secret does, and ends in a dash and a random suffix.
const (
	newPrefix   = ".new-"
	oldPrefix   = ".old-"
	gonePrefix  = ".gone-"
	suffixBytes = 8
)

// cannotSwap says whether a file system cannot do what was asked of it, as opposed to having failed: exchanging two folders, which not all
// can, and renaming a folder of overlayfs's lower layer.
func cannotSwap(err error) bool {
	for _, cannot := range [...]error{syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP, syscall.EXDEV} {
		if errors.Is(err, cannot) {
			return true
		}
	}
	return false
}

// swapSlowly puts the new folder of the suffix in the place of the old one where the two cannot be exchanged. In between, the secret is
// missing; the old one is then kept beside it, and [recoverFolder] puts it back.
func swapSlowly(parent *os.Root, name, suffix string) error {
	old := oldPrefix + name + "-" + suffix
	if err := setAside(parent, name, old); err != nil {
		return err
	}
	if err := parent.Rename(newPrefix+name+"-"+suffix, name); err != nil {
		return errors.Join(err, parent.Rename(old, name))
	}
	return parent.RemoveAll(old)
}

// setAside renames a folder, or, where that is not possible, copies and removes it.
func setAside(parent *os.Root, name, old string) error {
	err := parent.Rename(name, old)
	if err == nil || !cannotSwap(err) {
		return err
	}
	var left atomic.Int64
	left.Store(maxAll)
	files, _, err := readSecret(parent, name, &left)
	if err != nil {
		return err
	}
	// The copy gets its name once it is complete.
	draft := gonePrefix + strings.TrimPrefix(old, oldPrefix)
	if err = buildFolder(parent, draft, name, files, nil); err == nil {
		err = parent.Rename(draft, old)
	}
	if err != nil {
		return errors.Join(err, parent.RemoveAll(draft))
	}
	return parent.RemoveAll(name)
}

// recoverFolders removes what writers that were killed have left in the folder of a scope, and puts back what one had set aside. The caller
// is the only writer.
func recoverFolders(parent *os.Root) error {
	dir, err := parent.Open(".")
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	// What was set aside comes first: whether it is needed is seen from what is still beside it.
	for _, left := range names {
		if name, ok := strings.CutPrefix(left, oldPrefix); ok {
			err = errors.Join(err, recoverFolder(parent, name))
		}
	}
	for _, left := range names {
		if strings.HasPrefix(left, newPrefix) || strings.HasPrefix(left, gonePrefix) {
			err = errors.Join(err, parent.RemoveAll(left))
		}
	}
	return err
}

// recoverFolder ends what [swapSlowly] began. While the new folder has not been moved, the old one is right.
func recoverFolder(parent *os.Root, leftover string) error {
	old, suffix := oldPrefix+leftover, len(leftover)-2*suffixBytes
	if suffix < 2 {
		return nil // not of this program
	}
	name := leftover[:suffix-1]
	if _, err := parent.Lstat(newPrefix + leftover); errors.Is(err, fs.ErrNotExist) {
		return parent.RemoveAll(old)
	}
	if err := parent.RemoveAll(name); err != nil {
		return err
	}
	return parent.Rename(old, name)
}

// clean does [recoverFolders] for all scopes.
func clean(root *os.Root) error {
	scopes := []string{"secrets/shared"}
	hosts, err := fs.ReadDir(root.FS(), path.Join("secrets", hostFolder))
	if err = ignoreMissing(err); err != nil {
		return err
	}
	for _, host := range hosts {
		if !host.IsDir() {
			continue
		}
		scopes = append(scopes, path.Join("secrets", hostFolder, host.Name()))
	}
	var errs error
	for _, scope := range scopes {
		parent, err := openFolders(root, scope)
		if err != nil {
			errs = errors.Join(errs, ignoreMissing(err))
			continue
		}
		errs = errors.Join(errs, recoverFolders(parent), parent.Close())
	}
	return errs
}
