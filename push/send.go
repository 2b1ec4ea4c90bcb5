package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/pack"
	"fleet/push/proto"
)

// maxAck bounds an acknowledgement's line, in bytes.
const maxAck = 4 << 10

// send streams paths, references first, and returns when the host has registered all of them.
func (t *transfer) send(ctx context.Context, l *link, entries []pack.Entry) error {
	client, err := l.data(ctx)
	if err != nil {
		return err
	}
	request := proto.ImportRequest{Paths: uint64(len(entries))}
	for _, e := range entries {
		request.Bytes += e.Info.NarSize
	}
	stream, err := client.Open(ctx, proto.MethodImport, request)
	if err != nil {
		return err
	}
	defer stream.Cancel()
	acks := make(chan error, 1)
	pending := make(map[string]closure.PathInfo, len(entries))
	for _, e := range entries {
		pending[e.Info.Path.String()] = e.Info
	}
	go func() { acks <- t.acknowledge(stream, pending) }()
	writeErr := t.write(ctx, stream, entries)
	if writeErr != nil && !errors.Is(writeErr, proto.ErrEnded) {
		stream.Cancel()
		<-acks
		return writeErr
	}
	ackErr := <-acks
	if err := stream.Result(nil); err != nil {
		return t.damage(ctx, err, entries, pending)
	}
	switch {
	case ackErr != nil:
		return ackErr
	case writeErr != nil:
		return fmt.Errorf("push to %q: the agent ended the import early", t.s.spec.Target.Host)
	case len(pending) > 0:
		return fmt.Errorf("push to %q: the agent did not acknowledge %d paths", t.s.spec.Target.Host, len(pending))
	}
	t.progress.flush()
	return nil
}

// damage makes an agent's refusal of damaged data into an error that names the path, and says whose copy is damaged.
func (t *transfer) damage(ctx context.Context, err error, entries []pack.Entry, pending map[string]closure.PathInfo) error {
	answer, ok := errors.AsType[*proto.Error](err)
	if !ok || answer.Code != proto.CodeCorrupt {
		return err
	}
	path := errorPath(answer)
	for _, e := range entries {
		if _, left := pending[e.Info.Path.String()]; left && path.IsZero() {
			path = e.Info.Path
		}
	}
	if info, ok := t.graph.Info(path); ok {
		check := closure.NewVerifier()
		if err := t.s.c.Source.NAR(ctx, path, check); err != nil {
			return fmt.Errorf("read %q: %w", path, err)
		}
		if err := check.Check(info); err != nil {
			return &CorruptError{Path: path, Reason: err.Error()}
		}
	}
	return &CorruptError{Host: t.s.spec.Target.Host, Path: path, Reason: oneLine(answer.Message)}
}

// acknowledge reads what the host has registered.
func (t *transfer) acknowledge(stream *proto.Stream, pending map[string]closure.PathInfo) error {
	return eachLine(stream, maxAck, func(line []byte) error {
		var ack proto.ImportAck
		if err := json.Unmarshal(line, &ack); err != nil {
			return fmt.Errorf("read acknowledgement: %w", err)
		}
		info, ok := pending[ack.Path]
		if !ok {
			return fmt.Errorf("read acknowledgement: %q was not sent", oneLine(ack.Path))
		}
		delete(pending, ack.Path)
		t.progress.path(info.NarSize)
		return nil
	})
}

// write sends the import stream.
func (t *transfer) write(ctx context.Context, stream *proto.Stream, entries []pack.Entry) error {
	w := &frameWriter{cache: t.s.c.frames(), link: newGauge(stream), fixed: t.s.c.Level}
	if err := w.writeAll(ctx, append(pack.Layout(entries), pack.Spec{})); err != nil {
		return t.unreadable(err)
	}
	return stream.CloseWrite()
}

// unreadable says that our own store does not have what it says it has.
func (t *transfer) unreadable(err error) error {
	failed, ok := errors.AsType[*pack.ReadError](err)
	if !ok {
		return err
	}
	if corrupt, ok := errors.AsType[*closure.CorruptError](failed.Err); ok {
		return &CorruptError{Path: failed.Entry.Info.Path, Reason: corrupt.Error()}
	}
	return err
}

func pathStrings(paths []storepath.Path) []string {
	texts := make([]string, len(paths))
	for i, p := range paths {
		texts[i] = p.String()
	}
	return texts
}
