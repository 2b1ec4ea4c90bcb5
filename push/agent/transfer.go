package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"fleet/closure/daemon"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// maxPending is how many paths may be under way to the daemon; their references may be among them.
	maxPending = 64
	// exportLevel is zstd's level for what goes back to the operator.
	exportLevel = 3
	// flushEvery is how many bytes of NAR are exported between two flushes.
	flushEvery = 1 << 20
)

// importPaths reads paths in the import format, lets the daemon register them in order, and acknowledges each one once it
// is registered. Paths that were acknowledged stay when a later one fails.
func (s *session) importPaths(ctx context.Context, stream io.ReadWriter) (proto.ImportResult, error) {
	reader, err := proto.NewImportReader(stream)
	if err != nil {
		return proto.ImportResult{}, err
	}
	defer reader.Close()
	conn, err := s.borrow(ctx)
	if err != nil {
		return proto.ImportResult{}, err
	}
	defer s.giveBack(conn)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	im := &importer{session: s, conn: conn, acks: json.NewEncoder(stream), sent: make(chan sentPath, maxPending)}
	acked := make(chan error, 1)
	go func() {
		err := im.acknowledge(ctx)
		cancel(err)
		acked <- err
	}()
	sendErr := im.send(ctx, reader)
	close(im.sent)
	ackErr := <-acked
	// What the daemon said about a path explains more than the end of reading that follows from it.
	if ackErr != nil {
		return im.result, ackErr
	}
	return im.result, sendErr
}

type importer struct {
	session *session
	conn    *daemon.Conn
	acks    *json.Encoder
	sent    chan sentPath
	result  proto.ImportResult
}

type sentPath struct {
	info    storepath.Info
	pending *daemon.Pending
}

// send reads paths and sends them on to the daemon, which works through them in order.
func (im *importer) send(ctx context.Context, reader *proto.ImportReader) error {
	for {
		wire, body, err := reader.Next()
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return proto.Errorf(proto.CodeCorrupt, "the stream of paths was cut: %v", err)
		case err != nil:
			return streamError(err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		info, err := fromWire(wire)
		if err != nil {
			return proto.Errorf(proto.CodeCorrupt, "metadata of %.200q: %v", wire.Path, err)
		}
		if err := im.session.protectNew(ctx, info.Path); err != nil {
			return err
		}
		nar := &verifier{r: body, hash: sha256.New(), info: info}
		pending, err := im.conn.StartAddToStoreNar(ctx, info, nar, daemon.AddOptions{SkipSignatures: true})
		if pending != nil && err != nil {
			// The daemon was given too little and refuses it; the connection stays usable once that is known.
			return errors.Join(im.readFailure(info, err), pending.Wait(ctx))
		}
		if err != nil {
			return im.session.explainStore(info.Path.String(), err)
		}
		select {
		case im.sent <- sentPath{info, pending}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// streamError is the code of what could not be read: the stream's own error, or contents that are not in the format.
func streamError(err error) error {
	if _, ok := errors.AsType[*proto.Error](err); ok || errors.Is(err, proto.ErrLost) || errors.Is(err, context.Canceled) {
		return err
	}
	return proto.Errorf(proto.CodeCorrupt, "%v", err)
}

func (im *importer) readFailure(info storepath.Info, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return pathError(proto.CodeCorrupt, info.Path.String(), "the stream of paths was cut in %s", info.Path)
	}
	return streamError(err)
}

// acknowledge tells the client of every path that is registered, in order, and stops at the first that is not.
func (im *importer) acknowledge(ctx context.Context) error {
	for path := range im.sent {
		if err := path.pending.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return im.session.explainStore(path.info.Path.String(), err)
		}
		im.result.Paths++
		im.result.Bytes += path.info.NarSize
		if err := im.acks.Encode(proto.ImportAck{Path: path.info.Path.String()}); err != nil {
			return err
		}
	}
	return nil
}

// verifier reads a NAR and ends in an error where it is not the one that was announced. The daemon checks it again before it registers
// the path; this one tells a damaged transfer from a damaged store.
type verifier struct {
	r    io.Reader
	hash hash.Hash
	info storepath.Info
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	if err == io.EOF && !bytes.Equal(v.hash.Sum(nil), v.info.NarHash[:]) {
		err = pathError(proto.CodeCorrupt, v.info.Path.String(), "the NAR of %s that arrived is not the one that was announced", v.info.Path)
	}
	return n, err
}

// export sends paths in the import format, references first, whatever their order in the request.
func (s *session) export(ctx context.Context, req proto.ExportRequest, w io.Writer) (result proto.ImportResult, err error) {
	infos, err := s.pathInfos(ctx, req.Paths)
	if err != nil {
		return result, err
	}
	conn, err := s.borrow(ctx)
	if err != nil {
		return result, err
	}
	defer s.giveBack(conn)
	writer, err := proto.NewImportWriter(w, exportLevel)
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
	return referencesFirst(infos), nil
}
