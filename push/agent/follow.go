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
	f := &follower{path: filepath.Join(s.host.txnDir(st.Txn), switchLog), out: json.NewEncoder(w), offset: req.Offset}
	defer f.close()
	if base, size := s.host.logBase(st.Txn), f.size(); req.Offset > base+uint64(size) {
		return st, proto.Errorf(proto.CodeUsage, "the log of %s has %d bytes, not %d", st.Txn, base+uint64(size), req.Offset)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		// The state is read before the log, so that a final state comes after all of the log.
		if st, err = s.host.status(st.Txn); err != nil {
			return st, err
		}
		if err := f.send(st.State, s.host.logBase(st.Txn)); err != nil || st.State.Done() {
			return st, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return st, context.Cause(ctx)
		}
	}
}

// logBase is the offset of the first byte of a transaction's present log: every boot begins another one.
func (h *Host) logBase(txn string) uint64 {
	_, e, err := h.readTxn(txn)
	if err != nil {
		return 0
	}
	return e.LogBase
}

// follower knows what one client has got.
type follower struct {
	path   string
	log    *os.File
	out    *json.Encoder
	offset uint64
	state  proto.TxnState
}

// size is that of the log; there is none after a boot until a guard has begun one.
func (f *follower) size() int64 {
	if f.log == nil {
		log, err := os.Open(f.path)
		if err != nil {
			return 0
		}
		f.log = log
	}
	info, err := f.log.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

func (f *follower) close() {
	if f.log != nil {
		_ = f.log.Close()
	}
}

func (f *follower) send(state proto.TxnState, base uint64) error {
	f.offset = max(f.offset, base)
	buf := make([]byte, logPiece)
	for f.size() > 0 {
		n, err := f.log.ReadAt(buf, int64(f.offset-base))
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		n = wholeRunes(buf[:n], state.Done() && errors.Is(err, io.EOF))
		if n == 0 {
			break
		}
		f.offset += uint64(n)
		if err := f.out.Encode(proto.TxnEvent{Log: string(buf[:n]), Offset: f.offset}); err != nil {
			return err
		}
	}
	if state == f.state {
		return nil
	}
	f.state = state
	return f.out.Encode(proto.TxnEvent{State: state, Offset: f.offset})
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
