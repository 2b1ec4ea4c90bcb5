package state

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"fleet/secretsgen/secret"
)

// Remove removes the whole secret in one step. A secret that is not there is no error.
func (s *Store) Remove(ctx context.Context, id secret.ID) error {
	if err := id.Validate(); err != nil {
		return &WriteError{ID: id, Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	removed, err := s.remove(id)
	switch {
	case err != nil:
		return &WriteError{ID: id, Err: err}
	case !removed:
		return nil
	}
	return s.track(ctx, s.Path(id))
}

func (s *Store) remove(id secret.ID) (removed bool, err error) {
	root, err := s.openRoot()
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer root.Close()
	scope := path.Dir(secretPath(id))
	parent, err := openFolders(root, scope)
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer parent.Close()
	old, _ := present(parent, id.Name)
	suffix, err := randomSuffix()
	if err != nil {
		return false, err
	}
	gone := gonePrefix + id.Name + "-" + suffix
	switch err := parent.Rename(id.Name, gone); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case cannotSwap(err): // a folder of a lower layer cannot be renamed
		gone = id.Name
	case err != nil:
		return false, err
	}
	if err := parent.RemoveAll(gone); err != nil {
		return false, err
	}
	for file := range old {
		s.written[path.Join(s.Path(id), file)] = true
	}
	if strings.HasPrefix(string(id.Scope), hostFolder+"/") {
		_ = root.Remove(scope) // where it was the host's last one
	}
	return true, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Written lists the files that this store wrote or removed, sorted, relative to the folder of the flake.
func (s *Store) Written() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.written))
}
