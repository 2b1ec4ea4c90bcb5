package push

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// defaultLevel is zstd's own default: at it one core still fills a gigabit link.
	defaultLevel = 3
	// maxAck bounds an acknowledgement's line, in bytes.
	maxAck = 4 << 10
)

// send streams paths, references first, and returns when the host has registered all of them.
func (t *transfer) send(ctx context.Context, l *link, infos []closure.PathInfo) error {
	client, err := l.data(ctx)
	if err != nil {
		return err
	}
	stream, err := client.Open(ctx, proto.MethodImport, nil)
	if err != nil {
		return err
	}
	defer stream.Cancel()
	acks := make(chan error, 1)
	pending := make(map[string]closure.PathInfo, len(infos))
	for _, info := range infos {
		pending[info.Path.String()] = info
	}
	go func() { acks <- t.acknowledge(stream, pending) }()
	writeErr := t.write(ctx, stream, infos)
	if writeErr != nil && !errors.Is(writeErr, proto.ErrEnded) {
		stream.Cancel()
		<-acks
		return writeErr
	}
	ackErr := <-acks
	if err := stream.Result(nil); err != nil {
		return t.damage(err, infos, pending)
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

// damage makes an agent's refusal of damaged data into an error that names the path.
func (t *transfer) damage(err error, infos []closure.PathInfo, pending map[string]closure.PathInfo) error {
	answer, ok := errors.AsType[*proto.Error](err)
	if !ok || answer.Code != proto.CodeCorrupt {
		return err
	}
	path := errorPath(answer)
	for _, info := range infos {
		if _, left := pending[info.Path.String()]; left && path.IsZero() {
			path = info.Path
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
func (t *transfer) write(ctx context.Context, stream *proto.Stream, infos []closure.PathInfo) error {
	level := t.s.c.Level
	if level == 0 {
		level = defaultLevel
	}
	sink := &sink{w: stream}
	w, err := proto.NewImportWriter(sink, level)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err = t.writePath(ctx, w, info); err != nil {
			break
		}
	}
	// Closing releases the encoder also where the stream is not wanted any more.
	err = errors.Join(err, w.Close())
	if sink.err != nil {
		return sink.err
	}
	if err != nil {
		return err
	}
	return stream.CloseWrite()
}

// writePath sends one path and checks meanwhile that it is what its hash stands for.
func (t *transfer) writePath(ctx context.Context, w *proto.ImportWriter, info closure.PathInfo) error {
	body, err := w.Begin(wireInfo(info))
	if err != nil {
		return err
	}
	check := &checker{Verifier: closure.NewVerifier(), w: body, want: info}
	if err := t.s.c.Source.NAR(ctx, info.Path, check); err != nil {
		if check.err != nil {
			return check.err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("read %q: %w", info.Path, err)
	}
	return check.finish()
}

// checker passes a NAR on and measures it.
type checker struct {
	*closure.Verifier
	w    io.Writer
	want closure.PathInfo
	// err is why it stopped taking data.
	err error
}

func (c *checker) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	_, _ = c.Verifier.Write(p)
	if _, size := c.Sum(); size > c.want.NarSize {
		c.err = &CorruptError{Path: c.want.Path, Reason: fmt.Sprintf("its NAR is longer than the %d bytes that Nix registered", c.want.NarSize)}
		return 0, c.err
	}
	var n int
	n, c.err = c.w.Write(p)
	return n, c.err
}

func (c *checker) finish() error {
	if err := c.Check(c.want); c.err == nil && err != nil {
		c.err = &CorruptError{Path: c.want.Path, Reason: err.Error()}
	}
	return c.err
}

// sink remembers the error of a connection, so that it is told apart from errors of reading.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

func wireInfo(info closure.PathInfo) proto.PathInfo {
	wire := proto.PathInfo{
		Path: info.Path.String(), NarHash: hex.EncodeToString(info.NarHash[:]), NarSize: info.NarSize,
		References: pathStrings(info.References), Deriver: info.Deriver.String(), Signatures: info.Signatures, CA: info.CA,
	}
	return wire
}

func pathStrings(paths []storepath.Path) []string {
	texts := make([]string, len(paths))
	for i, p := range paths {
		texts[i] = p.String()
	}
	return texts
}
