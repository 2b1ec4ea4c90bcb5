// Package closure knows graphs of store paths and where their contents come from.
package closure

import (
	"context"
	"io"

	"fleet/closure/storepath"
)

// PathInfo is what a store knows of one path.
type PathInfo struct {
	Path storepath.Path
	// NarHash is the SHA-256 of the path's NAR.
	NarHash [32]byte
	// NarSize is the size of the NAR, in bytes.
	NarSize uint64
	// References are sorted and include the path itself where it refers to itself.
	References []storepath.Path
	// Deriver is the zero Path where it is not known.
	Deriver storepath.Path
	// Signatures are "name:base64", as in narinfo files.
	Signatures []string
	// CA is the content address in Nix's notation, empty for input-addressed paths.
	CA string
}

// Source is a store that paths are read from: the local one, later binary caches and bundles. It is safe for concurrent use.
type Source interface {
	// Closure returns the graph of everything that roots need. An invalid root is an error that names it.
	Closure(ctx context.Context, roots ...storepath.Path) (*Graph, error)
	// NAR writes the path's NAR to w; the caller checks hash and size.
	NAR(ctx context.Context, path storepath.Path, w io.Writer) error
}
