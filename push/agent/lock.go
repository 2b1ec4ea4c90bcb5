package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"fleet/push/guard"
	"fleet/push/proto"
)

const (
	// lockPatience is how long somebody tries to take the host's lock. Whoever only looks at the lock shares it for a moment,
	// which must not turn a worker away.
	lockPatience = time.Second
	maxHolder    = 4 << 10
	unknownOwner = "unknown"
)

// acquireLock takes the host's lock and writes its holder into the file. It is held until the file is closed or the process ends,
// however it ends. It returns errHeld where another worker has it.
func (h *Host) acquireLock(ctx context.Context, holder proto.LockHolder) (*os.File, error) {
	text, err := json.Marshal(holder)
	if err != nil {
		return nil, err
	}
	f, err := h.waitForLock(ctx)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(text, 0)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (h *Host) waitForLock(ctx context.Context) (*os.File, error) {
	deadline := time.Now().Add(lockPatience)
	for {
		f, err := lockNow(h.lockFile(), os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
		if !errors.Is(err, errHeld) || time.Now().After(deadline) {
			return f, err
		}
		select {
		case <-time.After(guardPoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// LockHolder returns who holds the host's lock, and nil where nobody does. A transaction under way holds it, also in the moment in which nobody guards it. An
// agent that is not root sees nobody. Whoever frees the lock does so just after having written the result; that moment is waited for.
func (h *Host) LockHolder() (*proto.LockHolder, error) {
	deadline := time.Now().Add(lockPatience)
	for {
		holder, err := h.readHolder()
		if holder == nil && err == nil {
			return h.openHolder()
		}
		if holder == nil || err != nil || time.Now().After(deadline) {
			return holder, err
		}
		// Without a name it is just being written.
		st, err := h.status(holder.Txn)
		if holder.Owner != unknownOwner && (err != nil || !st.State.Done()) {
			return holder, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// openHolder is the owner of a transaction that somebody guards. One that is staged for the next boot stands in nobody's way, and one that nobody guards is
// resolved by whoever begins the next.
func (h *Host) openHolder() (*proto.LockHolder, error) {
	txn, o, e, err := h.openTxn()
	if err != nil || txn == "" || e.State.Phase == guard.Staged || e.State.Phase.Ended() {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	if !h.guarded(ctx, txn) {
		return nil, nil
	}
	return &proto.LockHolder{Owner: oneLine(o.Owner), Txn: txn, Since: oneLine(o.Created)}, nil
}

func (h *Host) readHolder() (*proto.LockHolder, error) {
	busy, err := held(h.lockFile())
	if errors.Is(err, os.ErrPermission) || (err == nil && !busy) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	holder := proto.LockHolder{Owner: unknownOwner}
	if text, err := readBounded(h.lockFile(), maxHolder); err == nil {
		var read proto.LockHolder
		if json.Unmarshal(text, &read) == nil && read.Owner != "" {
			holder = proto.LockHolder{Owner: oneLine(read.Owner), Txn: oneLine(read.Txn), Since: oneLine(read.Since)}
		}
	}
	return &holder, nil
}

func lockedError(holder *proto.LockHolder) *proto.Error {
	e := proto.Errorf(proto.CodeLocked, "the host is locked by %s since %s (transaction %s)", holder.Owner, holder.Since, holder.Txn)
	e.Remedy = "wait until that activation has ended, attach to it (fleet attach), or take it back (fleet abort)"
	data, err := json.Marshal(holder)
	if err == nil {
		e.Data = data
	}
	return e
}
