package daemon

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/closure/wire"
)

// The operations that are used (libstore/worker-protocol.hh).
const (
	opEnsurePath            = 10
	opAddTempRoot           = 11
	opAddIndirectRoot       = 12
	opCollectGarbage        = 20
	opQueryPathInfo         = 26
	opQueryPathFromHashPart = 29
	opQueryValidPaths       = 31
	opAddSignatures         = 37
	opNarFromPath           = 38
	opAddToStoreNar         = 39
	opQueryMissing          = 40
)

// InvalidPathError says that a path is not valid in the store.
type InvalidPathError struct {
	Path storepath.Path
}

func (e *InvalidPathError) Error() string { return fmt.Sprintf("path %q is not in the store", e.Path) }

// ValidPathsOptions are the choices of [Conn.QueryValidPaths].
type ValidPathsOptions struct {
	// Substitute lets the daemon fetch what is missing from its substituters; the answer comes when it is done with all of them.
	Substitute bool
}

// QueryValidPaths returns those of paths that are valid, sorted.
func (c *Conn) QueryValidPaths(ctx context.Context, paths []storepath.Path, opts ValidPathsOptions) ([]storepath.Path, error) {
	var valid []storepath.Path
	err := c.call(ctx, 1, func(_ int, e wire.Encoder) {
		e.Number(opQueryValidPaths)
		e.Paths(paths)
		e.Flag(opts.Substitute)
	}, func(_ int, d decoder) (err error) {
		valid, err = d.paths()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("query which of %d paths are valid: %w", len(paths), err)
	}
	return valid, nil
}

// QuerySubstitutable returns those of paths that are not valid and that a substituter of the daemon's says it has, and what these need beside them, sorted. Whether
// their signatures are trusted, and whether they are still there when they are wanted, is seen only then.
func (c *Conn) QuerySubstitutable(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	var served []storepath.Path
	err := c.call(ctx, 1, func(_ int, e wire.Encoder) {
		e.Number(opQueryMissing)
		e.Paths(paths)
	}, func(_ int, d decoder) (err error) {
		if _, err = d.paths(); err != nil { // what would be built
			return err
		}
		if served, err = d.paths(); err != nil {
			return err
		}
		if _, err = d.paths(); err != nil { // what nobody has
			return err
		}
		for range 2 { // the bytes of downloads, and of their NARs
			if _, err = d.number(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask substituters for %d paths: %w", len(paths), err)
	}
	return served, nil
}

// QueryPathInfo returns what the store knows of a path; an invalid path is an [*InvalidPathError].
func (c *Conn) QueryPathInfo(ctx context.Context, path storepath.Path) (storepath.Info, error) {
	infos, err := c.QueryPathInfos(ctx, []storepath.Path{path})
	if err != nil {
		return storepath.Info{}, err
	}
	info, ok := infos[path]
	if !ok {
		return info, &InvalidPathError{Path: path}
	}
	return info, nil
}

// QueryPathInfos returns what the store knows of paths; invalid ones are missing from the result. It sends all requests at once.
func (c *Conn) QueryPathInfos(ctx context.Context, paths []storepath.Path) (map[storepath.Path]storepath.Info, error) {
	infos := make(map[storepath.Path]storepath.Info, len(paths))
	err := c.pathCall(ctx, opQueryPathInfo, paths, func(i int, d decoder) error {
		valid, err := d.flag()
		if err != nil || !valid {
			return err
		}
		info, err := d.info(paths[i])
		infos[paths[i]] = info
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("query the infos of %d paths: %w", len(paths), err)
	}
	return infos, nil
}

// QueryShares asks for the infos of paths in up to most shares of some least paths, at once, since a daemon has one thread; query asks for the share of that number.
func QueryShares(ctx context.Context, paths []storepath.Path, most, least int,
	query func(ctx context.Context, share int, paths []storepath.Path) (map[storepath.Path]storepath.Info, error),
) (map[storepath.Path]storepath.Info, error) {
	shares := min(most, (len(paths)+least-1)/least)
	answers := make([]map[storepath.Path]storepath.Info, shares)
	group, ctx := errgroup.WithContext(ctx)
	for i := range shares {
		group.Go(func() (err error) {
			answers[i], err = query(ctx, i, paths[len(paths)*i/shares:len(paths)*(i+1)/shares])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	infos := make(map[storepath.Path]storepath.Info, len(paths))
	for _, answer := range answers {
		maps.Copy(infos, answer)
	}
	return infos, nil
}

// QueryClosure returns the infos of roots and of all that they refer to, in no particular order. It asks level by level, each
// level at once. An invalid root, or a path that refers to an invalid one, is an [*InvalidPathError].
func (c *Conn) QueryClosure(ctx context.Context, roots []storepath.Path) ([]storepath.Info, error) {
	return Closure(ctx, roots, c.QueryPathInfos)
}

// Closure walks references level by level; query returns the infos of one level, without those of invalid paths.
func Closure(ctx context.Context, roots []storepath.Path, query func(context.Context, []storepath.Path) (map[storepath.Path]storepath.Info, error)) ([]storepath.Info, error) {
	var closure []storepath.Info
	seen := make(map[storepath.Path]bool)
	level := appendUnseen(nil, seen, roots)
	for len(level) > 0 {
		infos, err := query(ctx, level)
		if err != nil {
			return nil, err
		}
		var next []storepath.Path
		for _, path := range level {
			info, ok := infos[path]
			if !ok {
				return nil, &InvalidPathError{Path: path}
			}
			closure = append(closure, info)
			next = appendUnseen(next, seen, info.References)
		}
		level = next
	}
	return closure, nil
}

func appendUnseen(level []storepath.Path, seen map[storepath.Path]bool, paths []storepath.Path) []storepath.Path {
	for _, path := range paths {
		if !seen[path] {
			seen[path] = true
			level = append(level, path)
		}
	}
	return level
}

// QueryPathFromHashPart finds the valid path with this hash part (32 characters); the zero Path means that there is none.
func (c *Conn) QueryPathFromHashPart(ctx context.Context, hash string) (path storepath.Path, err error) {
	err = c.call(ctx, 1, func(_ int, e wire.Encoder) {
		e.Number(opQueryPathFromHashPart)
		e.Text(hash)
	}, func(_ int, d decoder) (err error) {
		path, err = d.optionalPath()
		return err
	})
	if err != nil {
		return storepath.Path{}, fmt.Errorf("query the path with hash %q: %w", hash, err)
	}
	return path, nil
}

// AddTempRoots protects paths from garbage collection until the connection is closed. They need not be valid: add the roots first
// and query validity then, and no collection can come in between.
func (c *Conn) AddTempRoots(ctx context.Context, paths []storepath.Path) error {
	if err := c.pathCall(ctx, opAddTempRoot, paths, acknowledged); err != nil {
		return fmt.Errorf("protect %d paths from garbage collection: %w", len(paths), err)
	}
	return nil
}

// AddIndirectRoot registers the symlink at an absolute path as a root of garbage collection, as long as it exists.
func (c *Conn) AddIndirectRoot(ctx context.Context, link string) error {
	err := c.call(ctx, 1, func(_ int, e wire.Encoder) {
		e.Number(opAddIndirectRoot)
		e.Text(link)
	}, acknowledged)
	if err != nil {
		return fmt.Errorf("register garbage collector root %q: %w", link, err)
	}
	return nil
}

// EnsurePath makes a path valid, by substitution where it is not yet.
func (c *Conn) EnsurePath(ctx context.Context, path storepath.Path) error {
	if err := c.pathCall(ctx, opEnsurePath, []storepath.Path{path}, acknowledged); err != nil {
		return fmt.Errorf("ensure path %q: %w", path, err)
	}
	return nil
}

// gcDeleteSpecific asks a garbage collection for exactly the named paths (libstore/gc-store.hh, GCOptions).
const gcDeleteSpecific = 3

// DeletePath removes a path that nothing needs: one that nobody roots or refers to, or what an import that did not end has left
// at its place. It returns how many bytes became free. A path that is in use is an [*Error].
func (c *Conn) DeletePath(ctx context.Context, path storepath.Path) (freed uint64, err error) {
	err = c.call(ctx, 1, func(_ int, e wire.Encoder) {
		e.Number(opCollectGarbage)
		e.Number(gcDeleteSpecific)
		e.Paths([]storepath.Path{path})
		e.Flag(false)           // what is in use stays
		e.Number(math.MaxInt64) // no bound on what is freed
		for range 3 {
			e.Number(0) // of older versions
		}
	}, func(_ int, d decoder) error {
		if _, err := d.texts(); err != nil {
			return err
		}
		if freed, err = d.number(); err != nil {
			return err
		}
		_, err := d.number()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("delete path %q: %w", path, err)
	}
	return freed, nil
}

// AddSignatures adds signatures ("name:base64") to a valid path.
func (c *Conn) AddSignatures(ctx context.Context, path storepath.Path, signatures []string) error {
	err := c.call(ctx, 1, func(_ int, e wire.Encoder) {
		e.Number(opAddSignatures)
		e.Path(path)
		e.Texts(signatures)
	}, acknowledged)
	if err != nil {
		return fmt.Errorf("add signatures to %q: %w", path, err)
	}
	return nil
}

// NarFromPath writes the NAR of a valid path to w, and checks its form on the way. An invalid path is an [*InvalidPathError].
// A writer that fails costs the connection. The call does not return before w does.
func (c *Conn) NarFromPath(ctx context.Context, path storepath.Path, w io.Writer) error {
	// A daemon that cannot begin to send the NAR closes the connection.
	if _, err := c.QueryPathInfo(ctx, path); err != nil {
		return err
	}
	var copyErr error
	err := c.pathCall(ctx, opNarFromPath, []storepath.Path{path}, func(_ int, d decoder) error {
		_, copyErr = nar.Copy(w, d.r)
		return copyErr
	})
	if copyErr != nil && ctx.Err() == nil {
		err = copyErr
	}
	if err != nil {
		return fmt.Errorf("read NAR of %q: %w", path, err)
	}
	return nil
}

// acknowledged reads the result of operations that have none: always 1.
func acknowledged(_ int, d decoder) error {
	value, err := d.number()
	if err == nil && value != 1 {
		return fault("%d in the place of an acknowledgement", value)
	}
	return err
}

func sortedReferences(info storepath.Info) []storepath.Path {
	refs := slices.Clone(info.References)
	storepath.Sort(refs)
	return slices.Compact(refs)
}
