package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"

	"fleet/closure/daemon"
	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// maxPending is how many paths may be under way to the daemon; their references may be among them.
	maxPending = 64
	// wholeNAR is how large a NAR may be that is checked as a whole before the daemon hears of it, in bytes.
	wholeNAR = 4 << 20
)

var errHash = errors.New("its SHA-256 is another than the announced one")

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
	im := &importer{session: s, conn: conn, acks: json.NewEncoder(stream), sent: make(chan sentPath, maxPending)}
	err = im.run(ctx, reader)
	s.giveBack(conn)
	if proto.CodeOf(err) == proto.CodeStoreFull {
		s.clearUnfinished(ctx, im.begun[im.result.Paths:])
	}
	return im.result, err
}

// run sends and acknowledges beside each other, until the stream ends or a path fails.
func (im *importer) run(ctx context.Context, reader *proto.ImportReader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
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
		return ackErr
	}
	return sendErr
}

type importer struct {
	session *session
	conn    *daemon.Conn
	acks    *json.Encoder
	sent    chan sentPath
	// begun are the paths that the daemon has heard of, in order; the first result.Paths of them are registered.
	begun  []storepath.Path
	result proto.ImportResult
	// buf holds one NAR after the other.
	buf bytes.Buffer
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
		im.begun = append(im.begun, info.Path)
		pending, err := im.add(ctx, info, body)
		if err != nil {
			return err
		}
		select {
		case im.sent <- sentPath{info, pending}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add hands a path to the daemon, which has not yet registered it then.
func (im *importer) add(ctx context.Context, info storepath.Info, body io.Reader) (*daemon.Pending, error) {
	if info.NarSize > wholeNAR {
		return im.addLarge(ctx, info, body)
	}
	im.buf.Reset()
	if _, err := im.buf.ReadFrom(body); err != nil {
		return nil, damaged(info.Path, err)
	}
	if sha256.Sum256(im.buf.Bytes()) != info.NarHash {
		return nil, damaged(info.Path, errHash)
	}
	pending, err := im.conn.StartAddToStoreNar(ctx, info, &im.buf, daemon.AddOptions{SkipSignatures: true})
	if err != nil {
		return nil, im.session.explainStore(info.Path.String(), err)
	}
	return pending, nil
}

// addLarge lets the NAR flow through while it is checked.
func (im *importer) addLarge(ctx context.Context, info storepath.Info, body io.Reader) (*daemon.Pending, error) {
	r, w := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		err := copyChecked(w, info, body)
		w.CloseWithError(err)
		checked <- err
	}()
	pending, err := im.conn.StartAddToStoreNar(ctx, info, r, daemon.AddOptions{SkipSignatures: true})
	r.CloseWithError(errNotWanted)
	narErr := <-checked
	if err == nil {
		return pending, nil
	}
	if pending != nil {
		// The daemon was given too little and refuses it; the connection stays usable once that is known.
		return nil, errors.Join(damaged(info.Path, narErr), pending.Wait(ctx))
	}
	return nil, im.session.explainStore(info.Path.String(), err)
}

// copyChecked copies a NAR and ends in an error where it is none, or not the announced one. The daemon checks its hash again before
// it registers the path; but it believes what a NAR says of a file's size, and would make room for exabytes.
func copyChecked(w io.Writer, info storepath.Info, body io.Reader) error {
	sum := sha256.New()
	guard := sizeGuard{Writer: nar.NewWriter(io.MultiWriter(w, sum)), limit: info.NarSize}
	if err := nar.Parse(body, guard); err != nil {
		return err
	}
	if err := guard.Close(); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), info.NarHash[:]) {
		return errHash
	}
	return nil
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
