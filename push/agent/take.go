package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"fleet/closure/pack"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// wholeNAR is up to which size a NAR is held whole, in bytes, so that its form is checked before the store sees any of it.
const wholeNAR = 1 << 20

// taking is one [proto.MethodTake]: paths come from a relay, which nobody believes anything. What they are is what the operator has said.
type taking struct {
	from proto.TakeFrom
	// infos are the operator's, in the order in which they are asked for, and wanted those that did not come yet.
	infos  []storepath.Info
	wanted map[storepath.Path]storepath.Info
	bytes  uint64
	// limit bounds the whole of it: a relay that is slow without end is no better than none.
	limit time.Duration
}

// take takes paths from a relay.
func (s *session) take(ctx context.Context, stream *proto.Stream) (result proto.ImportResult, err error) {
	key, err := newTunnelKey()
	if err != nil {
		return result, err
	}
	line, err := json.Marshal(proto.TakeReady{Key: key.hash})
	if err != nil {
		return result, err
	}
	if _, err := stream.Write(append(line, '\n')); err != nil {
		return result, err
	}
	t, err := readTaking(stream)
	if err != nil {
		return result, err
	}
	return t.fetch(ctx, s, key, stream)
}

// fetch has the paths come within the limit. What came until then stays.
func (t *taking) fetch(ctx context.Context, s *session, key tunnelKey, report io.Writer) (proto.ImportResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.limit, t.blame(fmt.Errorf("%d paths did not come within %s", len(t.infos), t.limit)))
	defer cancel()
	conn, err := t.dial(ctx, key)
	if err != nil {
		return proto.ImportResult{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return t.run(ctx, s, conn, report)
}

// readTaking reads and checks what the operator says.
func readTaking(r io.Reader) (*taking, error) {
	from, wires, err := proto.ReadTake(r)
	if err != nil {
		return nil, streamError(err)
	}
	t := &taking{from: from, wanted: make(map[storepath.Path]storepath.Info, len(wires))}
	if !isKeyHash(from.Key) || from.Port < 1 || from.Port > 65535 || len(from.Addresses) == 0 || len(from.Addresses) > proto.MaxRelayAddresses {
		return nil, proto.Errorf(proto.CodeUsage, "take: the relay is not described as it should be")
	}
	for _, wire := range wires {
		info, err := fromWire(wire)
		if err != nil {
			return nil, proto.Errorf(proto.CodeUsage, "take: %v", err)
		}
		if _, twice := t.wanted[info.Path]; twice {
			return nil, proto.Errorf(proto.CodeUsage, "take: %s stands there twice", info.Path)
		}
		t.infos, t.wanted[info.Path] = append(t.infos, info), info
		t.bytes += info.NarSize
	}
	t.limit = takeSlack + proto.TakeTime(t.bytes)
	return t, nil
}

// fromWire parses an info.
func fromWire(wire proto.PathInfo) (storepath.Info, error) {
	info := storepath.Info{NarSize: wire.NarSize, Signatures: wire.Signatures, CA: wire.CA}
	var err error
	if info.Path, err = storepath.Parse(wire.Path); err != nil {
		return info, err
	}
	if info.References, err = parsePaths(wire.References); err != nil {
		return info, err
	}
	if wire.Deriver != "" {
		if info.Deriver, err = storepath.Parse(wire.Deriver); err != nil {
			return info, err
		}
	}
	sum, err := hex.DecodeString(wire.NarHash)
	if err != nil || len(sum) != len(info.NarHash) {
		return info, fmt.Errorf("the NAR hash of %s is no SHA-256", info.Path)
	}
	copy(info.NarHash[:], sum)
	return info, nil
}

// dial tries the relay's addresses, one after the other, and stays with the first where the relay proves its key.
func (t *taking) dial(ctx context.Context, key tunnelKey) (*tls.Conn, error) {
	config := key.config(func(hash string) bool { return hash == t.from.Key })
	dialing, cancel := context.WithTimeout(ctx, dialAllTime)
	defer cancel()
	var errs []string
	for _, address := range t.from.Addresses {
		conn, err := dialOne(dialing, net.JoinHostPort(address, strconv.Itoa(t.from.Port)), config)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errs = append(errs, err.Error()); dialing.Err() != nil {
			break
		}
	}
	e := proto.Errorf(proto.CodeNotFound, "reach the relay %q: %s", oneLine(t.from.Relay), strings.Join(errs, "; "))
	e.Remedy = fmt.Sprintf("see that this host reaches TCP port %d of the relay, whose firewall opens it once the relay itself was deployed: deploy.relay, deploy.relayPort", t.from.Port)
	return nil, e
}

func dialOne(ctx context.Context, address string, config *tls.Config) (*tls.Conn, error) {
	dialer := net.Dialer{Timeout: dialTime}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	handshake, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(handshake); err != nil {
		return nil, errors.Join(fmt.Errorf("speak with %s: %w", address, err), ignoreClosed(raw.Close()))
	}
	return conn, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// run asks for the paths, and has each registered that is what the operator has said.
func (t *taking) run(ctx context.Context, s *session, conn net.Conn, stream io.Writer) (proto.ImportResult, error) {
	names := make(proto.Lines, len(t.infos))
	for i, info := range t.infos {
		names[i] = info.Path.Base()
	}
	if err := proto.WriteWanted(conn, names); err != nil {
		return proto.ImportResult{}, t.blame(err)
	}
	report := newTakeReport(stream)
	// Nothing is reported after the end.
	defer report.close()
	in := s.openIntake(ctx, proto.ImportRequest{Paths: uint64(len(t.infos)), Bytes: t.bytes}, report.registered)
	err := t.receive(ctx, in, conn)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	result, err := in.close(s.ctx, err)
	return result, err
}

// receive hands what comes to the intake. Whatever the relay says of a path beside its name is not used.
func (t *taking) receive(ctx context.Context, in *intake, conn net.Conn) error {
	answer := &bounded{newSteady(conn), t.mostBytes()}
	reader, err := proto.NewImportReader(answer)
	if err != nil {
		return err
	}
	defer reader.Close()
	for {
		wire, body, err := reader.Next()
		if err == io.EOF {
			break
		}
		if answer.left == 0 {
			err = errTooMuch // what reads from it calls that an end
		}
		if err != nil {
			return t.blame(err)
		}
		info, err := t.expect(wire)
		if err != nil {
			return err
		}
		if err := t.give(ctx, in, info, body); err != nil {
			return err
		}
	}
	if err := in.store.Wait(); err != nil {
		return err
	}
	for path := range t.wanted {
		return pathError(proto.CodeNotFound, path.String(), "the relay %q left out %d paths, such as %s", oneLine(t.from.Relay), len(t.wanted), path)
	}
	return nil
}

// expect is what the operator has said of a path that the relay announces, each once.
func (t *taking) expect(wire proto.PathInfo) (storepath.Info, error) {
	path, err := storepath.Parse(wire.Path)
	if err != nil {
		return storepath.Info{}, t.blame(err)
	}
	info, wanted := t.wanted[path]
	switch {
	case !wanted:
		return info, pathError(proto.CodeCorrupt, path.String(), "the relay %q sends %s, which it was not asked for", oneLine(t.from.Relay), path)
	case wire.NarSize != info.NarSize || wire.NarHash != hex.EncodeToString(info.NarHash[:]):
		return info, pathError(proto.CodeCorrupt, path.String(), "the relay %q has another %s than it should have", oneLine(t.from.Relay), path)
	}
	delete(t.wanted, path)
	for _, reference := range info.References {
		// A path without what it refers to would stay if the rest never came.
		if _, later := t.wanted[reference]; later {
			return info, pathError(proto.CodeCorrupt, path.String(), "the relay %q sends %s before %s, to which it refers", oneLine(t.from.Relay), path, reference)
		}
	}
	return info, nil
}

// give hands one path to the intake. What is wrong with its NAR is the relay's fault, and what the store says is not.
func (t *taking) give(ctx context.Context, in *intake, info storepath.Info, body io.Reader) error {
	if info.NarSize <= wholeNAR {
		whole := make([]byte, info.NarSize)
		if _, err := io.ReadFull(body, whole); err != nil {
			return t.blame(err)
		}
		body = bytes.NewReader(whole)
	}
	if err := in.Path(ctx, info, storepath.Path{}, body); err != nil {
		if _, ours := errors.AsType[*storeError](err); ours {
			return err
		}
		return &pack.PathError{Path: info.Path, Err: t.blame(err)}
	}
	return nil
}

// blame says that it was the relay.
func (t *taking) blame(err error) error {
	return fmt.Errorf("take from the relay %q: %w", oneLine(t.from.Relay), err)
}

// mostBytes is what the answer may take on the wire: contents that cannot be packed, and what the relay says of each path.
func (t *taking) mostBytes() uint64 {
	const answer, each, reference = 1 << 20, 4 << 10, 64
	most := answer + t.bytes + t.bytes/64
	for _, info := range t.infos {
		most += each + reference*uint64(len(info.References))
	}
	return most
}

// takeReport tells the operator of paths that are registered, from several goroutines.
type takeReport struct {
	news chan storepath.Path
	done chan struct{}
}

// newTakeReport writes to w until it is closed. Who registers paths does not wait for w, unless that is far behind.
func newTakeReport(w io.Writer) *takeReport {
	r := &takeReport{news: make(chan storepath.Path, ackBatch), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		lines := newEventLines()
		for path := range r.news {
			lines.add(proto.ImportEvent{Path: path.String()})
			if len(r.news) > 0 && lines.text.Len() < 32<<10 {
				continue
			}
			_, _ = lines.text.WriteTo(w) // an operator that has gone hears no more, and the context ends
			lines.text.Reset()
		}
	}()
	return r
}

func (r *takeReport) registered(path storepath.Path) { r.news <- path }

// close returns when all was said. Nothing is registered after it.
func (r *takeReport) close() {
	close(r.news)
	<-r.done
}
