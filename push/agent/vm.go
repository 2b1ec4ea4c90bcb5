//go:build vm

package agent

import (
	"context"
	"fmt"
	"time"

	"fleet/push/guard"
	"fleet/push/proto"
)

// BeginUnguarded opens a transaction without starting its guard, and without what only a host with Nix can be asked for. It is for the virtual machines
// of the checks, which have none.
func BeginUnguarded(ctx context.Context, h *Host, req proto.BeginRequest) (string, error) {
	if err := h.Loader().CanStage(); err != nil {
		return "", err
	}
	txn, err := h.newTxnID()
	if err == nil {
		err = makeFleetDir(h.fleetDir())
	}
	if err != nil {
		return "", err
	}
	o := opening{
		Txn: txn, Owner: req.Owner, Created: time.Now().UTC().Format(time.RFC3339), BootID: h.bootID(), Action: req.Action, Toplevel: req.Toplevel,
		Helper: h.Helper, Policy: withDefaults(req.Guard),
	}
	old := h.seen()
	for _, f := range h.Loader().Preflight(oldDefaultOf(old), req.Toplevel) {
		return "", fmt.Errorf("%s: %s", f.Check, f.Message)
	}
	if o.Baseline, err = h.TakeBaseline(ctx); err != nil {
		return "", err
	}
	return txn, h.open(o, guard.Begin(guard.Action(req.Action), h.guardPolicy(o, old, req.Toplevel), old, req.Toplevel, req.Toplevel, o.BootID))
}

// StateOf is what the journal of a transaction says, and what the host is.
func StateOf(h *Host, txn string) (guard.State, guard.Systems, error) {
	_, e, err := h.readTxn(txn)
	return e.State, h.seen(), err
}
