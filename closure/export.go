package closure

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"fleet/closure/storepath"
)

// exportMagic stands between a NAR and its metadata in an export stream (libstore/export-import.cc).
const exportMagic = 0x4558494e

// WriteExport writes the paths of graph as the stream that nix-store --import reads. The receiver has no way to check it: the stream
// carries no hashes, so whoever passes it on has to protect it. Here each NAR is checked before its metadata follows.
func WriteExport(ctx context.Context, w io.Writer, source Source, graph *Graph) error {
	e := exporter{w: bufio.NewWriterSize(w, 64<<10)}
	for _, path := range graph.Topological() {
		info, _ := graph.Info(path)
		e.number(1)
		verifier := NewVerifier()
		if err := source.NAR(ctx, path, io.MultiWriter(e.w, verifier)); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		if err := verifier.Check(info); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		e.number(exportMagic)
		e.path(path)
		e.number(uint64(len(info.References)))
		for _, ref := range info.References {
			e.path(ref)
		}
		e.path(info.Deriver)
		// No signature in the old form.
		e.number(0)
	}
	e.number(0)
	if err := e.w.Flush(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// exporter's errors are those of the buffered writer, which are sticky.
type exporter struct{ w *bufio.Writer }

func (e exporter) number(value uint64) {
	_, _ = e.w.Write(binary.LittleEndian.AppendUint64(e.w.AvailableBuffer(), value))
}

func (e exporter) path(p storepath.Path) {
	const zeros = "\x00\x00\x00\x00\x00\x00\x00"
	text := p.String()
	e.number(uint64(len(text)))
	_, _ = e.w.WriteString(text)
	_, _ = e.w.WriteString(zeros[:-len(text)&7])
}
