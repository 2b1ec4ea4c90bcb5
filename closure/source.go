// Package closure knows graphs of store paths and where their contents come from.
package closure

import (
	"context"
	"io"

	"fleet/closure/storepath"
)

// PathInfo is what a store knows of one path. The type lives in storepath, so that closure/daemon can use it too.
type PathInfo = storepath.Info

// Source is a store that paths are read from: the local one, later binary caches and bundles. It is safe for concurrent use.
type Source interface {
	// Closure returns the graph of everything that roots need. An invalid root is an error that names it.
	Closure(ctx context.Context, roots ...storepath.Path) (*Graph, error)
	// NAR writes the path's NAR to w; the caller checks hash and size.
	NAR(ctx context.Context, path storepath.Path, w io.Writer) error
	// View opens the path's NAR for reads at any offset; the caller checks its size, and closes it.
	View(ctx context.Context, path storepath.Path) (View, error)
}

// Warmer is a [Source] whose paths can be read into memory ahead of time, up to so many bytes each.
type Warmer interface {
	Warm(path storepath.Path, limit uint64)
}

// View is a NAR that can be read at any offset; *[nar.View] is one. It is safe for concurrent use.
type View interface {
	io.ReaderAt
	// Size is the NAR's size, in bytes.
	Size() int64
	Close() error
}
