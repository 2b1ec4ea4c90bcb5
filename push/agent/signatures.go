package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"fleet/closure/chunk"
	"fleet/closure/delta"
	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// holdings lists what the closures of toplevels hold.
func (s *session) holdings(ctx context.Context, req proto.HoldingsRequest) (proto.HoldingsResult, error) {
	roots, err := parsePaths(req.Toplevels)
	if err != nil {
		return proto.HoldingsResult{}, proto.Errorf(proto.CodeUsage, "%v", err)
	}
	conn, err := s.protect(ctx, roots)
	if err != nil {
		return proto.HoldingsResult{}, err
	}
	absent, err := invalid(ctx, conn, roots)
	if err != nil {
		return proto.HoldingsResult{}, err
	}
	roots = slices.DeleteFunc(roots, func(path storepath.Path) bool { return absent[path] })
	infos, err := conn.QueryClosure(ctx, roots)
	if err != nil {
		return proto.HoldingsResult{}, err
	}
	result := proto.HoldingsResult{Paths: make(proto.Lines, len(infos))}
	for i, info := range infos {
		result.Paths[i] = info.Path.Base() + " " + strconv.FormatUint(info.NarSize, 10)
	}
	slices.Sort(result.Paths)
	return result, nil
}

// signatures sends the signatures of bases, which deltas may be made against from then on.
func (s *session) signatures(ctx context.Context, req proto.SignaturesRequest, w io.Writer) (any, error) {
	if len(req.Key) != proto.SignatureKeySize || chunk.KeySize != proto.SignatureKeySize {
		return nil, proto.Errorf(proto.CodeUsage, "a key of %d bytes", len(req.Key))
	}
	paths, places, err := cutBases(req.Bases)
	if err != nil {
		return nil, err
	}
	infos, err := s.agree(ctx, paths)
	if err != nil {
		return nil, err
	}
	cutter := chunk.NewCutter(chunk.Key(req.Key))
	out := bufio.NewWriterSize(w, 64<<10)
	for i, path := range paths {
		refs, err := parseRefs(places[i], req.Pairs)
		if err != nil {
			return nil, proto.Errorf(proto.CodeUsage, "the reference map of %s: %v", path, err)
		}
		info, valid := infos[path]
		if err := s.sign(ctx, out, cutter, info, valid, refs); err != nil {
			return nil, err
		}
	}
	return nil, out.Flush()
}

// agree protects bases and accepts those that are valid.
func (s *session) agree(ctx context.Context, bases []storepath.Path) (map[storepath.Path]storepath.Info, error) {
	infos, err := s.protectedInfos(ctx, bases)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, info := range infos {
		s.bases[path] = info
	}
	return infos, nil
}

// parseRefs reads the reference map of a base: places of pairs.
func parseRefs(places string, pairs proto.Lines) (*delta.Refs, error) {
	refs := make(map[string]string)
	for text := range strings.FieldsSeq(places) {
		place, err := strconv.ParseUint(text, 10, 32)
		if err != nil || place >= uint64(len(pairs)) {
			return nil, fmt.Errorf("there is no pair %.20q", text)
		}
		from, to, _ := strings.Cut(pairs[place], " ")
		if refs[from] = to; len(refs) > delta.MaxRefs {
			break // the map says what is wrong
		}
	}
	return delta.NewRefs(refs)
}

// sign writes the signature of a base as it is seen through a map, or that there is none.
func (s *session) sign(ctx context.Context, w *bufio.Writer, cutter *chunk.Cutter, info storepath.Info, valid bool, refs *delta.Refs) (err error) {
	if !valid {
		return w.WriteByte(proto.NoSignature)
	}
	view, openErr := nar.OpenView(s.host.file(info.Path))
	if openErr != nil {
		return w.WriteByte(proto.NoSignature)
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	if uint64(view.Size()) != info.NarSize {
		return w.WriteByte(proto.NoSignature)
	}
	if err := w.WriteByte(proto.SignatureFollows); err != nil {
		return err
	}
	var record []byte
	err = cutter.Cut(delta.NewView(view, refs), view.Size(), func(c chunk.Chunk) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		record = chunk.Append(record[:0], c)
		_, err := w.Write(record)
		return err
	})
	if err != nil {
		return fmt.Errorf("describe %s: %w", info.Path, err)
	}
	return nil
}
