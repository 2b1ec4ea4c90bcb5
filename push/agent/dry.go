package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/storepath"
	"fleet/push/guard"
	"fleet/push/proto"
)

// A dry activation changes nothing, so nothing guards it: a worker takes the host's lock, runs switch-to-configuration, and writes how it ended. Nothing
// of it outlives a boot.

const (
	requestName = "request.json"
	statusName  = "status.json"
	// dryStart is how long a dry activation may have no worker after it was begun.
	dryStart = 30 * time.Second
)

// dryRequest is what a dry activation is asked to do; it never changes.
type dryRequest struct {
	proto.BeginRequest
	Txn    string `json:"txn"`
	Since  string `json:"since"`
	BootID string `json:"bootId"`
	// Begun is the time since boot: the clock may be set at any moment.
	Begun time.Duration `json:"begun"`
}

// beginDry opens a dry activation, and returns when its worker has the host's lock.
func (s *session) beginDry(ctx context.Context, req proto.BeginRequest) (proto.BeginResult, error) {
	h := s.host
	if err := h.free(); err != nil {
		return proto.BeginResult{}, err
	}
	txn, err := h.newTxnID()
	if err != nil {
		return proto.BeginResult{}, err
	}
	r := dryRequest{BeginRequest: req, Txn: txn, Since: time.Now().UTC().Format(time.RFC3339), BootID: h.bootID(), Begun: sinceBoot()}
	if err := h.writeDry(r); err != nil {
		return proto.BeginResult{}, errors.Join(err, os.RemoveAll(h.txnDir(txn)))
	}
	err = h.Units.Start(ctx, Unit{
		Name: workerUnit(txn, 1), Description: fmt.Sprintf("Dry activation %s for %s", txn, req.Owner),
		Argv: []string{h.Helper, "activate", "--txn", txn}, Env: h.environment(), Log: filepath.Join(h.txnDir(txn), guardLog),
		MaxRuntime: policyOf(req).Switch + workerExtra, Standalone: true, StopTimeout: 2 * workerGrace,
	})
	if err != nil && !h.workerRuns(ctx, txn, 1) {
		return proto.BeginResult{}, errors.Join(err, os.RemoveAll(h.txnDir(txn)))
	}
	for {
		st, err := h.status(txn)
		switch {
		case err != nil:
			return proto.BeginResult{}, err
		case st.Lock != nil:
			return proto.BeginResult{}, lockedError(st.Lock)
		case st.State != proto.TxnPrepared:
			return proto.BeginResult{Txn: txn}, nil
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return proto.BeginResult{}, errors.Join(context.Cause(ctx), h.Units.Stop(context.WithoutCancel(ctx), workerUnit(txn, 1)))
		}
	}
}

func (h *Host) writeDry(r dryRequest) error {
	if err := h.makeTxnDir(r.Txn); err != nil {
		return err
	}
	if err := os.MkdirAll(h.rootsDir(), 0o755); err != nil {
		return err
	}
	dir := h.txnDir(r.Txn)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, aliveName), nil, 0o600),
		os.WriteFile(filepath.Join(dir, switchLog), nil, 0o600),
		replaceLink(r.Toplevel, filepath.Join(h.rootsDir(), txnRoots+r.Txn+"-new")),
		writeJSON(filepath.Join(dir, requestName), r),
		writeJSON(filepath.Join(dir, statusName), proto.TxnStatus{
			Txn: r.Txn, State: proto.TxnPrepared, Action: r.Action, Toplevel: r.Toplevel, Specialisation: r.Specialisation, Owner: r.Owner, Since: r.Since,
			Step: stepLock,
		}))
}

// RunDry runs a dry activation to its end. The result is in the transaction's status; the error is for what kept it from being written there.
func RunDry(ctx context.Context, host *Host, txn string) error {
	if !txnForm().MatchString(txn) {
		return fmt.Errorf("run dry activation: %.60q is no transaction", txn)
	}
	dir := host.txnDir(txn)
	alive, err := lockNow(filepath.Join(dir, aliveName), os.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("run dry activation: %w", err)
	}
	defer alive.Close()
	if !host.Units.Detached() {
		if err := detach(filepath.Join(dir, guardLog)); err != nil {
			return err
		}
	}
	var r dryRequest
	var st proto.TxnStatus
	if err := errors.Join(readJSON(filepath.Join(dir, requestName), &r), readJSON(filepath.Join(dir, statusName), &st)); err != nil {
		return err
	}
	if st.State != proto.TxnPrepared {
		return nil // it was run already
	}
	err = host.dry(ctx, r, &st)
	host.describe(&st)
	_ = os.Remove(filepath.Join(host.rootsDir(), txnRoots+txn+"-new")) // dropped later where this fails
	return errors.Join(err, writeJSON(filepath.Join(dir, statusName), st))
}

func (h *Host) dry(ctx context.Context, r dryRequest, st *proto.TxnStatus) error {
	st.State = proto.TxnFailed
	lock, err := h.acquireLock(ctx, proto.LockHolder{Owner: r.Owner, Txn: r.Txn, Since: r.Since})
	switch {
	case errors.Is(err, errHeld):
		if st.Lock, err = h.LockHolder(); err != nil || st.Lock == nil {
			st.Lock = &proto.LockHolder{Owner: unknownOwner}
		}
		st.Reason = lockedError(st.Lock).Message
		return nil
	case err != nil:
		st.Reason = "take the host's lock: " + oneLine(err.Error())
		return nil
	}
	defer lock.Close()
	st.State, st.Step = proto.TxnSwitching, stepDry
	if err := writeJSON(filepath.Join(h.txnDir(r.Txn), statusName), *st); err != nil {
		return err
	}
	log, err := h.openLog(r.Txn)
	if err != nil {
		return err
	}
	defer log.file.Close()
	limit := policyOf(r.BeginRequest).Switch
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %s", limit))
	defer cancel()
	end := h.runSwitch(ctx, program{System: activePath(r.BeginRequest), Verb: guard.Verb(proto.ActionDryActivate), Online: true}, log)
	if end.Exit == 0 {
		st.State, st.Step = proto.TxnCommitted, ""
		return nil
	}
	st.State, st.ExitCode, st.Reason = proto.TxnFailed, end.Exit, exitMeaning(string(proto.ActionDryActivate), end.Exit)
	if end.Exit < 0 {
		st.Reason = "switch-to-configuration dry-activate: " + end.Detail
	}
	return nil
}

// describe fills in what the host runs and boots.
func (h *Host) describe(st *proto.TxnStatus) {
	seen := h.seen()
	st.Current, st.Profile, st.BootDefault, st.Generation = seen.Current, seen.Profile, seen.BootDefault, seen.Generation
}

// dryStatus is that of a dry activation: a worker that is gone without having said how it ended has failed.
func (h *Host) dryStatus(txn string) (proto.TxnStatus, error) {
	var st proto.TxnStatus
	var r dryRequest
	dir := h.txnDir(txn)
	err := errors.Join(readJSON(filepath.Join(dir, requestName), &r), readJSON(filepath.Join(dir, statusName), &st))
	if errors.Is(err, fs.ErrNotExist) {
		return st, proto.Errorf(proto.CodeNotFound, "transaction %s is not known on this host: it is older than the last %d, or was a dry activation before the last boot", txn, keptTransactions)
	}
	if err != nil || st.State.Done() {
		return st, err
	}
	busy, err := held(filepath.Join(dir, aliveName))
	if err != nil || busy {
		return st, err
	}
	// The worker may have written its last word between the two looks.
	if err := readJSON(filepath.Join(dir, statusName), &st); err != nil || st.State.Done() {
		return st, err
	}
	if st.State == proto.TxnPrepared && sinceBoot()-r.Begun < dryStart {
		return st, nil
	}
	st.State, st.Reason = proto.TxnFailed, fmt.Sprintf("it stopped in step %q: its process was ended", st.Step)
	h.describe(&st)
	return st, nil
}

// activated is the system that runs after an activation, as a store path.
func activated(req proto.BeginRequest) (storepath.Path, error) {
	target := toplevelAt(activePath(req))
	if target.IsZero() {
		return target, fmt.Errorf("%q does not lead to a store path", activePath(req))
	}
	return target, nil
}
