package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
)

// The bounds of what is read. They are far above what any fleet has, and keep a hostile state from filling the memory.
const (
	maxSecrets = 200_000
	maxFiles   = 20_000      // of one secret
	maxMeta    = 1 << 20     // bytes of meta.json and of notes
	maxOwner   = 16 << 20    // bytes of an owner's file
	maxAll     = 2_000 << 20 // bytes of everything
)

// maxTries bounds how often a secret is read again because it was exchanged meanwhile.
const maxTries = 100

// readSecret reads the files of a secret's folder. Where a writer exchanges the folder meanwhile, it is read again, so that what is
// returned is of one folder.
func readSecret(parent *os.Root, name string, left *atomic.Int64) (files content, errs []*BrokenError, err error) {
	for range maxTries {
		var root *os.Root
		if root, err = openFolder(parent, name); errors.Is(err, errReplaced) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		files, errs, err = gather(root, left)
		same := isStill(parent, name, root)
		_ = root.Close()
		if same {
			return files, errs, err
		}
	}
	return nil, nil, errors.Join(errors.New("it is replaced again and again"), err)
}

// isStill says whether name is the folder that root was opened from.
func isStill(parent *os.Root, name string, root *os.Root) bool {
	now, err := parent.Lstat(name)
	then, errThen := root.Stat(".")
	return err == nil && errThen == nil && os.SameFile(now, then)
}

// gather reads a secret's folder and the folders in it.
func gather(root *os.Root, left *atomic.Int64) (content, []*BrokenError, error) {
	files := content{}
	var errs []*BrokenError
	entries, err := readDir(root, maxFiles)
	if err != nil {
		return nil, nil, err
	}
	for _, entry := range entries {
		switch name := entry.Name(); {
		case entry.IsDir() && (name == ownersFolder || name == publicFolder || name == revokedFolder):
			in, broken, err := gatherFolder(root, name, left)
			if err != nil {
				return nil, nil, err
			}
			errs = append(errs, broken...)
			maps.Copy(files, in)
		case name == metaFile:
			if files[name], err = readFile(root, name, maxMeta); err != nil {
				errs = append(errs, &BrokenError{Path: name, Err: withoutPath(err)})
			}
			left.Add(-int64(len(files[name])))
		default:
			errs = append(errs, &BrokenError{Path: name, Err: errStray})
		}
	}
	return files, errs, nil
}

func gatherFolder(parent *os.Root, folder string, left *atomic.Int64) (content, []*BrokenError, error) {
	root, err := openFolder(parent, folder)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	entries, err := readDir(root, maxFiles)
	if err != nil {
		return nil, nil, err
	}
	files := make(content, len(entries))
	var errs []*BrokenError
	for _, entry := range entries {
		name := path.Join(folder, entry.Name())
		limit, owner := int64(maxMeta), ""
		if folder == ownersFolder {
			limit, owner = maxOwner, strings.TrimSuffix(entry.Name(), ".json")
		}
		data, err := readFile(root, entry.Name(), limit)
		if err != nil {
			errs = append(errs, &BrokenError{Path: name, Owner: owner, Err: withoutPath(err)})
			continue
		}
		if left.Add(-int64(len(data))) < 0 {
			return nil, nil, errors.New("the state is too large")
		}
		files[name] = data
	}
	return files, errs, nil
}

// withoutPath takes the path from an error that stands beside it already.
func withoutPath(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// readDir lists a folder, sorted, without the names that begin with a dot: what a writer left, and what is no business of ours.
func readDir(root *os.Root, limit int) ([]fs.DirEntry, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(limit + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > limit {
		return nil, fmt.Errorf("there are more than %d files in %q", limit, root.Name())
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") })
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// readFile reads a file that is no link, of at most limit bytes.
func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no file")
	}
	// Whoever puts a pipe in its place now does not make us wait.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var data bytes.Buffer
	data.Grow(int(min(info.Size(), limit)) + bytes.MinRead)
	if _, err := data.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
		return nil, err
	}
	if int64(data.Len()) > limit {
		return nil, fmt.Errorf("it has more than %d bytes", limit)
	}
	return data.Bytes(), nil
}
