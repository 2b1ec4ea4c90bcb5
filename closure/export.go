package closure

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"fleet/closure/wire"
)

// exportMagic stands between a NAR and its metadata in an export stream (libstore/export-import.cc).
const exportMagic = 0x4558494e

// WriteExport writes the paths of graph as the stream that nix-store --import reads. The receiver has no way to check it: the stream
// carries no hashes, so whoever passes it on has to protect it. Here each NAR is checked before its metadata follows.
func WriteExport(ctx context.Context, w io.Writer, source Source, graph *Graph) error {
	e := wire.Encoder{Writer: bufio.NewWriterSize(w, 64<<10)}
	for _, path := range graph.Topological() {
		info, _ := graph.Info(path)
		e.Number(1)
		verifier := NewVerifier()
		if err := source.NAR(ctx, path, io.MultiWriter(e, verifier)); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		if err := verifier.Check(info); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		e.Number(exportMagic)
		e.Path(path)
		e.Paths(info.References)
		e.Path(info.Deriver)
		// No signature in the old form.
		e.Number(0)
	}
	e.Number(0)
	if err := e.Flush(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}
