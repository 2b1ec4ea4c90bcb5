package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// exportLevel is zstd's level for what goes back to the operator.
	exportLevel = 3
	// flushEvery is how many bytes of NAR are exported between two flushes.
	flushEvery = 1 << 20
)

// export sends paths in the import format, references first, whatever their order in the request.
func (s *session) export(ctx context.Context, req proto.ExportRequest, w io.Writer) (result proto.ImportResult, err error) {
	infos, err := s.pathInfos(ctx, req.Paths)
	if err != nil {
		return result, err
	}
	return s.exportInfos(ctx, infos, exportLevel, w)
}

// exportInfos sends paths in the import format and in the order in which they are given.
func (s *session) exportInfos(ctx context.Context, infos []storepath.Info, level int, w io.Writer) (result proto.ImportResult, err error) {
	conn, err := s.borrow(ctx)
	if err != nil {
		return result, err
	}
	defer s.giveBack(conn)
	writer, err := proto.NewImportWriter(w, level)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, writer.Close()) }()
	var unflushed uint64
	for _, info := range infos {
		nar, err := writer.Begin(toWire(info))
		if err != nil {
			return result, err
		}
		if err := conn.NarFromPath(ctx, info.Path, nar); err != nil {
			return result, fmt.Errorf("read %s: %w", info.Path, err)
		}
		if unflushed += info.NarSize; unflushed >= flushEvery {
			if err := writer.Flush(); err != nil {
				return result, err
			}
			unflushed = 0
		}
		result.Paths++
		result.Bytes += info.NarSize
	}
	return result, nil
}

// pathInfos returns the infos of paths that must all be valid.
func (s *session) pathInfos(ctx context.Context, texts []string) ([]storepath.Info, error) {
	paths, err := parsePaths(texts)
	if err != nil {
		return nil, proto.Errorf(proto.CodeUsage, "%v", err)
	}
	infos, err := s.validInfos(ctx, paths)
	return referencesFirst(infos), err
}

// validInfos returns the infos of paths that must all be valid, each once, after protecting them.
func (s *session) validInfos(ctx context.Context, paths []storepath.Path) ([]storepath.Info, error) {
	conn, err := s.protect(ctx, paths)
	if err != nil {
		return nil, err
	}
	byPath, err := conn.QueryPathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	infos := make([]storepath.Info, 0, len(byPath))
	for _, path := range paths {
		info, ok := byPath[path]
		if !ok {
			return nil, pathError(proto.CodeNotFound, path.String(), "path %s is not valid on the host", path)
		}
		infos = append(infos, info)
		delete(byPath, path)
	}
	return infos, nil
}
