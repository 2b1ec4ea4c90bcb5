package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fleet/push/guard"
	"fleet/push/proto"
)

const (
	// resolvePatience is how long somebody who begins a transaction waits for the end of an earlier one that nobody had guarded.
	resolvePatience = 20 * time.Minute
	bootGuardLook   = 2 * time.Second
)

func guardUnit(txn string) string    { return "fleet-guard-" + txn + ".service" }
func backstopUnit(txn string) string { return "fleet-backstop-" + txn + ".service" }
func backstopTimer(txn string) string {
	return strings.TrimSuffix(backstopUnit(txn), ".service") + ".timer"
}

// guardProcess is the unit of a guard. It is started again whatever ends it, runs on whatever the host isolates, and dies last.
func (h *Host) guardProcess(name, txn, helper string) Unit {
	return Unit{
		Name: name, Description: "Guard of transaction " + txn, Argv: []string{helper, "guard", "--txn", txn}, Env: h.environment(),
		Log: filepath.Join(h.txnDir(txn), guardLog), Standalone: true, Restart: true, Vital: true, StopTimeout: 5 * time.Second,
	}
}

// guarded says whether a guard of the transaction is there, or comes again.
func (h *Host) guarded(ctx context.Context, txn string) bool {
	if h.journalHeld(txn) {
		return true
	}
	running, err := h.Units.Running(ctx, guardUnit(txn))
	return err == nil && running
}

// ensureGuard starts the guard of a transaction unless it is there: by the program that the transaction has pinned, since another one may not know
// its journal.
func (h *Host) ensureGuard(ctx context.Context, txn string) error {
	if h.guarded(ctx, txn) {
		return nil
	}
	o, _, err := h.readTxn(txn)
	if err != nil {
		return err
	}
	helper := o.Helper
	if _, err := os.Stat(helper); err != nil {
		helper = h.Helper
	}
	if err := h.makeTxnDir(txn); err != nil {
		return err
	}
	err = h.Units.Start(ctx, h.guardProcess(guardUnit(txn), txn, helper))
	// Somebody else may be starting it at the same moment: another session, or whoever looks after a boot.
	if err != nil && (unitExists(err) || h.guarded(ctx, txn)) {
		return nil
	}
	return err
}

// armBackstop has somebody look after the transaction should have ended, for the case that its guard is gone then. It is a second line: the first one is that
// the guard is started again.
func (g *guardian) armBackstop() {
	p := g.opening().Policy
	unit := g.host.guardProcess(backstopUnit(g.txn()), g.txn(), g.opening().Helper)
	unit.Once = g.patience + max(seconds(p.ConfirmSeconds), seconds(p.BootConfirmSeconds)) + backstopExtra
	if err := g.host.Units.Start(g.ctx, unit); err != nil && !unitExists(err) && g.ctx.Err() == nil {
		g.say("no timer stands behind the guard: %v", err)
	}
}

// resolve ends what an earlier transaction has left: one that nobody guards any more, as after a loss of power, and one that waits for the next boot.
func (h *Host) resolve(ctx context.Context, owner string) error {
	for {
		txn, _, e, err := h.openTxn()
		if err != nil {
			return err
		}
		if txn != "" && e.State.Phase == guard.Staged && e.State.BootID == h.bootID() {
			if err := h.supersede(ctx, txn, owner); err != nil {
				return err
			}
			continue
		}
		if holder, err := h.readHolder(); err != nil || holder != nil {
			return h.free() // waits for one that is just ending
		}
		if txn == "" {
			return nil
		}
		if h.guarded(ctx, txn) {
			return h.free()
		}
		if gone, err := h.withdraw(ctx, txn); gone || err != nil && !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return err
			}
			continue
		}
		if err := h.ensureGuard(ctx, txn); err != nil {
			return fmt.Errorf("go on with transaction %s, which nobody guards: %w", txn, err)
		}
		limit, cancel := context.WithTimeout(ctx, resolvePatience)
		err = h.awaitEnd(limit, txn)
		cancel()
		if err != nil {
			return err
		}
	}
}

// supersede takes back a boot that was staged.
func (h *Host) supersede(ctx context.Context, txn, owner string) error {
	if err := h.abortTxn(ctx, txn, owner+", who deploys anew"); err != nil {
		return err
	}
	return h.awaitEnd(ctx, txn)
}

// abortTxn asks the guard to go back. A guard that has left a staged boot alone is started for that.
func (h *Host) abortTxn(ctx context.Context, txn, reason string) error {
	deadline := time.Now().Add(guardStart)
	for {
		if err := h.ensureGuard(ctx, txn); err != nil {
			return err
		}
		answer, err := h.askGuard(ctx, txn, guardRequest{Abort: reason})
		switch {
		case err == nil && answer.Error != nil:
			return answer.Error
		case err == nil:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("abort transaction %s: %w", txn, err)
		}
		// It is just coming, or has just ended.
		if _, e, readErr := h.readTxn(txn); readErr != nil || !e.open() {
			return readErr
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitEnd waits until a transaction has ended, and its guard has freed the host's lock.
func (h *Host) awaitEnd(ctx context.Context, txn string) error {
	for {
		_, e, err := h.readTxn(txn)
		if err != nil {
			return err
		}
		if !e.open() && !h.guarded(ctx, txn) {
			return nil
		}
		if e.State.Phase == guard.RollbackFailed {
			return proto.Errorf(proto.CodeLocked, "transaction %s does not come to its end: %s", txn, e.State.Trouble)
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// BootGuard goes on, after a boot, with the transaction that has not ended: it starts its guard, and starts it again should that be gone. It activates
// nothing itself, since it is a unit that an activation may stop. Ready is called once it has decided what there is to do; it returns when that transaction has
// ended. One that begins later is not its business: who begins it starts its guard, and two that start it would be in each other's way.
func BootGuard(ctx context.Context, host *Host, ready func() error) error {
	var errs []error
	txn, err := host.startOpen(ctx, "")
	errs = append(errs, err)
	if err := ready(); err != nil {
		errs = append(errs, err)
	}
	for txn != "" || err != nil {
		select {
		case <-time.After(bootGuardLook):
		case <-ctx.Done():
			return nil // the guards go on, or the host goes down
		}
		if txn, err = host.startOpen(ctx, txn); err != nil && err.Error() != errs[len(errs)-1].Error() {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// startOpen makes sure that the open transaction is guarded, and returns its name. What is staged for a boot that has not come needs no guard, and neither
// does one that is another than only, where that is not empty.
func (h *Host) startOpen(ctx context.Context, only string) (string, error) {
	txn, _, e, err := h.openTxn()
	if err != nil || txn == "" || only != "" && txn != only || e.State.Phase == guard.Staged && e.State.BootID == h.bootID() {
		return "", err
	}
	return txn, h.ensureGuard(ctx, txn)
}
