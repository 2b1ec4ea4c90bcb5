package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"fleet/secretsgen/secret"
)

// formatText is the content of the format file.
const formatText = "1\n"

// FormatError says that the state has a format that this program does not read.
type FormatError struct {
	// Path is relative to the folder of the flake.
	Path string
	Got  string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("read state: %s has format %.40q, this program reads %q", e.Path, e.Got, strings.TrimSpace(formatText))
}

// Hint is the remedy.
func (e *FormatError) Hint() string {
	return "restore the file from git, or use a fleet program that is as new as the one that wrote it: nix flake update fleet"
}

// Load reads all secrets. No state at all is no secrets. What is wrong with one secret is in its [Entry.Err]; the error is for what
// concerns all of them, such as a newer format.
func (s *Store) Load() (*Tree, error) {
	root, err := s.openRoot()
	if errors.Is(err, fs.ErrNotExist) {
		return &Tree{Secrets: map[secret.ID]*Entry{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	defer root.Close()
	return load(root, s.fleet, s.folder())
}

// LoadFolder reads all secrets of the state in folder, as fleet-state/<fleet>, wherever that is: as [Store.Load] does, without a work tree.
func LoadFolder(folder, fleet string) (*Tree, error) {
	root, err := os.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return &Tree{Secrets: map[secret.ID]*Entry{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	defer root.Close()
	return load(root, fleet, path.Join(Folder, fleet))
}

// openRoot opens the fleet's state. Links on the way to it are refused.
func (s *Store) openRoot() (*os.Root, error) {
	top, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return openFolders(top, s.folder())
}

// errReplaced says that a folder was exchanged while it was opened.
var errReplaced = errors.New("it was replaced")

// openFolder opens a folder that is no link. The error wraps [errReplaced] where another one takes its place meanwhile.
func openFolder(parent *os.Root, name string) (*os.Root, error) {
	info, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open %q: it is no folder", filepath.Join(parent.Name(), name))
	}
	root, err := parent.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	opened, err := root.Stat(".")
	if err == nil && !os.SameFile(info, opened) {
		err = fmt.Errorf("open %q: %w", filepath.Join(parent.Name(), name), errReplaced)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// found is a place where a secret is, or should be.
type found struct {
	id     secret.ID
	parent *os.Root
	entry  *Entry
}

// loader reads one state.
type loader struct {
	fleet, folder string
	opened        []*os.Root
	found         []*found
	strays        []string
	// left is how many bytes may still be read.
	left atomic.Int64
}

func load(root *os.Root, fleet, folder string) (*Tree, error) {
	l := &loader{fleet: fleet, folder: folder}
	l.left.Store(maxAll)
	if err := checkFormat(root, folder); err != nil {
		return nil, err
	}
	defer l.close()
	if err := l.find(root); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, f := range l.found {
		group.Go(func() error {
			f.entry = l.entry(f.parent, f.id)
			return nil
		})
	}
	_ = group.Wait() // none of them returns an error
	if l.left.Load() < 0 {
		return nil, fmt.Errorf("read state: %s has more than %d bytes", folder, maxAll)
	}
	tree := &Tree{Secrets: make(map[secret.ID]*Entry, len(l.found)), Strays: l.strays}
	for _, f := range l.found {
		if f.entry != nil {
			tree.Secrets[f.id] = f.entry
		}
	}
	slices.Sort(tree.Strays)
	return tree, nil
}

// checkFormat accepts a state without the file: pins alone are no secrets.
func checkFormat(root *os.Root, folder string) error {
	data, err := readFile(root, "format", 64)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read state: %w", err)
	case strings.TrimSpace(string(data)) != strings.TrimSpace(formatText):
		return &FormatError{Path: path.Join(folder, "format"), Got: strings.TrimSpace(string(data))}
	}
	return nil
}

// find lists the secrets' folders.
func (l *loader) find(root *os.Root) error {
	secrets, err := l.open(root, "secrets")
	if secrets == nil {
		return err
	}
	entries, err := readDir(secrets, maxSecrets)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); !entry.IsDir() || name != string(secret.Shared) && name != hostFolder {
			l.stray(path.Join("secrets", name))
		}
	}
	shared, err := l.open(secrets, string(secret.Shared))
	if shared != nil {
		err = l.scope(shared, secret.Shared)
	}
	if err != nil {
		return err
	}
	hosts, err := l.open(secrets, hostFolder)
	if hosts == nil {
		return err
	}
	return l.hosts(hosts)
}

// hostFolder has the secrets of each host in a folder of its name.
const hostFolder = "host"

// open opens a folder until close; nil where there is none.
func (l *loader) open(parent *os.Root, name string) (*os.Root, error) {
	root, err := openFolder(parent, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		l.opened = append(l.opened, root)
	}
	return root, err
}

func (l *loader) close() {
	for _, root := range l.opened {
		_ = root.Close()
	}
}

// hosts lists the hosts' own secrets.
func (l *loader) hosts(root *os.Root) error {
	entries, err := readDir(root, maxSecrets)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() || secret.ValidateName(name) != nil {
			l.stray(path.Join("secrets", hostFolder, name))
			continue
		}
		host, err := l.open(root, name)
		if host != nil {
			err = l.scope(host, secret.OfHost(name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// scope lists the secrets in the folder of a scope.
func (l *loader) scope(root *os.Root, scope secret.Scope) error {
	entries, err := readDir(root, maxSecrets)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		id := secret.ID{Scope: scope, Name: entry.Name()}
		if id.Validate() != nil {
			l.stray(secretPath(id))
			continue
		}
		if len(l.found) >= maxSecrets {
			return fmt.Errorf("there are more than %d secrets", maxSecrets)
		}
		l.found = append(l.found, &found{id: id, parent: root})
	}
	return nil
}

func (l *loader) stray(name string) { l.strays = append(l.strays, name) }

// entry reads one secret; nil where its folder is empty, or went away in the meantime.
func (l *loader) entry(parent *os.Root, id secret.ID) *Entry {
	folder := path.Join(l.folder, secretPath(id))
	files, errs, err := readSecret(parent, id.Name, &l.left)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &Entry{ID: id, Err: &BrokenError{ID: id, Path: folder, Err: err}}
	case len(files) == 0 && len(errs) == 0:
		return nil // git keeps no folders, so one without files is what a change of branches left
	}
	return parse(l.fleet, folder, id, files, errs...)
}
