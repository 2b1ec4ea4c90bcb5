package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

// root makes a named GC root, or moves it, by one rename.
func (s *session) root(ctx context.Context, req proto.RootRequest) (any, error) {
	if !plainName(req.Name) {
		return nil, proto.Errorf(proto.CodeUsage, "%.60q is no name of a root", req.Name)
	}
	if req.Group != "" && (len(req.Group) < minGroup || !strings.HasPrefix(req.Name, req.Group)) {
		return nil, proto.Errorf(proto.CodeUsage, "the root %q is none of the group %.60q", req.Name, req.Group)
	}
	path, err := storepath.Parse(req.Path)
	if err != nil {
		return nil, proto.Errorf(proto.CodeUsage, "%v", err)
	}
	valid, err := s.valid(ctx, path)
	if err != nil {
		return nil, err
	}
	if !valid {
		return nil, pathError(proto.CodeNotFound, req.Path, "path %s is not valid on the host", path)
	}
	dir, err := s.host.ownRoots()
	if err != nil {
		return nil, err
	}
	link := filepath.Join(dir, req.Name)
	if err := replaceLink(path.String(), link); err != nil {
		return nil, fmt.Errorf("make root %q: %w", link, err)
	}
	if err := removeRoots(dir, req); err != nil {
		return nil, err
	}
	if s.host.Root() {
		return nil, nil
	}
	conn, err := s.borrow(ctx)
	if err != nil {
		return nil, err
	}
	defer s.giveBack(conn)
	return nil, conn.AddIndirectRoot(ctx, link)
}

// minGroup is how long the names are at least that a group of roots has in common, so that no request clears the folder by mistake.
const minGroup = 4

// removeRoots removes the roots of the request's group that are neither its own nor to be kept.
func removeRoots(dir string, req proto.RootRequest) error {
	if req.Group == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove old roots: %w", err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if entry.Type() != fs.ModeSymlink || !strings.HasPrefix(name, req.Group) || name == req.Name || slices.Contains(req.Keep, name) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old root: %w", err)
		}
	}
	return nil
}

// ownRoots returns the folder of the agent's GC roots: below Nix's own for root, else in the user's state.
func (h *Host) ownRoots() (string, error) {
	dir := h.rootsDir()
	if !h.Root() {
		if h.Home == "" {
			return "", errors.New("make root: the user has no home")
		}
		dir = filepath.Join(h.Home, ".local", "state", "fleet", "gcroots")
	}
	return dir, os.MkdirAll(dir, 0o755)
}
