package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"fleet/push/proto"
)

// logPiece bounds one event's part of a log, in bytes.
const logPiece = 32 << 10

// follow sends a transaction's log from an offset on, and its states, until it has ended. Any number of clients may follow.
func (s *session) follow(ctx context.Context, req proto.AttachRequest, w io.Writer) (proto.TxnStatus, error) {
	st, err := s.transaction(req.Txn)
	if err != nil {
		return st, err
	}
	log, err := os.Open(filepath.Join(s.host.txnDir(st.Txn), switchLog))
	if err != nil {
		return st, err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return st, err
	}
	if req.Offset > uint64(info.Size()) {
		return st, proto.Errorf(proto.CodeUsage, "the log of %s has %d bytes, not %d", st.Txn, info.Size(), req.Offset)
	}
	f := &follower{log: log, out: json.NewEncoder(w), offset: int64(req.Offset)}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		// The state is read before the log, so that a final state comes after all of the log.
		if st, err = s.host.status(st.Txn); err != nil {
			return st, err
		}
		if err := f.send(st.State); err != nil || st.State.Done() {
			return st, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return st, context.Cause(ctx)
		}
	}
}

// follower knows what one client has got.
type follower struct {
	log    *os.File
	out    *json.Encoder
	offset int64
	state  proto.TxnState
}

func (f *follower) send(state proto.TxnState) error {
	buf := make([]byte, logPiece)
	for {
		n, err := f.log.ReadAt(buf, f.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		n = wholeRunes(buf[:n], state.Done() && errors.Is(err, io.EOF))
		if n == 0 {
			break
		}
		f.offset += int64(n)
		if err := f.out.Encode(proto.TxnEvent{Log: string(buf[:n]), Offset: uint64(f.offset)}); err != nil {
			return err
		}
	}
	if state == f.state {
		return nil
	}
	f.state = state
	return f.out.Encode(proto.TxnEvent{State: state, Offset: uint64(f.offset)})
}

// wholeRunes returns how many bytes of text end with a whole character. JSON has no halves.
func wholeRunes(text []byte, last bool) int {
	if last {
		return len(text)
	}
	for back := 1; back <= min(utf8.UTFMax-1, len(text)); back++ {
		if b := text[len(text)-back]; utf8.RuneStart(b) {
			if !utf8.FullRune(text[len(text)-back:]) {
				return len(text) - back
			}
			break
		}
	}
	return len(text)
}
