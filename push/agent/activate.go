package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fleet/closure/storepath"
	"fleet/push/guard"
	"fleet/push/proto"
)

const (
	// maxPatience bounds every time that a policy names.
	maxPatience = 24 * time.Hour
	// pollInterval is how often what another process does is looked at.
	pollInterval = 50 * time.Millisecond
	// guardPoll is the same for a moment that is short and waited for.
	guardPoll = 5 * time.Millisecond
	// guardStart is how long a guard may take to begin.
	guardStart = 30 * time.Second
	// backstopExtra is how long after a transaction should have ended somebody looks whether it is guarded.
	backstopExtra = time.Minute
)

// begin opens a transaction and starts its guard. It returns when the guard stands.
func (s *session) begin(ctx context.Context, req proto.BeginRequest) (proto.BeginResult, error) {
	if !s.host.Root() {
		return proto.BeginResult{}, forbiddenNotRoot()
	}
	if err := s.checkBegin(ctx, req); err != nil {
		return proto.BeginResult{}, err
	}
	if req.Action == proto.ActionDryActivate {
		return s.beginDry(ctx, req)
	}
	if err := s.host.resolve(ctx, req.Owner); err != nil {
		return proto.BeginResult{}, err
	}
	h := s.host
	txn, err := h.newTxnID()
	if err != nil {
		return proto.BeginResult{}, err
	}
	if err := makeFleetDir(h.fleetDir()); err != nil {
		return proto.BeginResult{}, err
	}
	o := opening{
		Txn: txn, Owner: req.Owner, Created: time.Now().UTC().Format(time.RFC3339), BootID: h.bootID(), Action: req.Action, Toplevel: req.Toplevel,
		Specialisation: req.Specialisation, Helper: h.Helper, Policy: withDefaults(req.Guard),
	}
	// Ours until the guard has the journal: it then waits for the lock alone.
	lock, err := h.acquireLock(ctx, proto.LockHolder{Owner: o.Owner, Txn: txn, Since: o.Created})
	if errors.Is(err, errHeld) {
		return proto.BeginResult{}, h.lockedNow()
	}
	if err != nil {
		return proto.BeginResult{}, err
	}
	defer lock.Close()
	if err := s.prepare(ctx, req, o); err != nil {
		return proto.BeginResult{}, err
	}
	return s.startGuard(ctx, txn)
}

// prepare looks at the host, and writes down what is to be done and what the host was.
func (s *session) prepare(ctx context.Context, req proto.BeginRequest, o opening) error {
	h := s.host
	if id, other, _, err := h.openTxn(); err != nil || id != "" {
		return errors.Join(err, lockedError(&proto.LockHolder{Owner: other.Owner, Txn: id, Since: other.Created}))
	}
	h.prune()
	target, err := activated(req)
	if err != nil {
		return err
	}
	old := h.seen()
	if o.Notices, err = s.preflight(ctx, req, o.Policy, old); err != nil {
		return err
	}
	if o.Baseline, err = h.TakeBaseline(ctx); err != nil {
		return fmt.Errorf("look at the units of the host: %w", err)
	}
	policy := h.guardPolicy(o, old, target.String())
	return h.open(o, guard.Begin(guard.Action(req.Action), policy, old, req.Toplevel, target.String(), o.BootID))
}

// open makes all that a transaction leaves on the disk.
func (h *Host) open(o opening, state guard.State) error {
	if err := os.MkdirAll(h.stateDir(), 0o700); err != nil {
		return err
	}
	err := h.makeTxnDir(o.Txn)
	if err == nil {
		err = os.WriteFile(filepath.Join(h.txnDir(o.Txn), switchLog), nil, 0o600)
	}
	if err == nil {
		err = h.keepRoots(o.Txn, state.Old, state.New)
	}
	if err != nil {
		return errors.Join(err, h.forget(o.Txn))
	}
	j, err := createJournal(realDisk{}, h.journalPath(o.Txn), h.shadowPath(o.Txn), o, state)
	if err != nil {
		return errors.Join(err, h.forget(o.Txn))
	}
	return j.close()
}

// forget removes a transaction that was never begun.
func (h *Host) forget(txn string) error {
	err := os.Remove(h.journalPath(txn))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	h.dropRoots(txn)
	return errors.Join(err, os.RemoveAll(h.txnDir(txn)))
}

// withDefaults is a policy in which every bound has a value.
func withDefaults(p *proto.GuardPolicy) proto.GuardPolicy {
	defaults := proto.DefaultGuardPolicy()
	if p == nil {
		return defaults
	}
	policy := *p
	for _, bound := range []struct {
		value    *int
		fallback int
	}{
		{&policy.SwitchSeconds, defaults.SwitchSeconds}, {&policy.RollbackSeconds, defaults.RollbackSeconds},
		{&policy.ConfirmSeconds, defaults.ConfirmSeconds}, {&policy.BootConfirmSeconds, defaults.BootConfirmSeconds},
	} {
		if *bound.value == 0 {
			*bound.value = bound.fallback
		}
	}
	if policy.Reboot == "" {
		policy.Reboot = defaults.Reboot
	}
	return policy
}

// policyOf is the policy of a request that was checked, without what the host adds.
func policyOf(req proto.BeginRequest) guard.Policy {
	p := withDefaults(req.Guard)
	seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
	return guard.Policy{
		Switch: seconds(p.SwitchSeconds), Confirm: seconds(p.ConfirmSeconds), Rollback: seconds(p.RollbackSeconds),
		BootConfirm: seconds(p.BootConfirmSeconds), Reboot: guard.RebootPolicy(p.Reboot), NoRollback: p.NoRollback, SelfConfirm: p.SelfConfirm,
	}
}

// guardPolicy adds what the host says: how long judging may take, whether a reboot is safe, and whether there is anything to go back to.
func (h *Host) guardPolicy(o opening, old guard.Systems, target string) guard.Policy {
	p := policyOf(proto.BeginRequest{Guard: &o.Policy})
	p.Judge = h.TrialTime(Trial{Baseline: o.Baseline, Policy: o.Policy, Toplevel: target}) + bootPatience + switchLockPatience
	p.RebootSafe = h.unsafeReboot(old) == ""
	if oldDefaultOf(old) == "" && old.Current == "" {
		p.NoRollback = true
	}
	// After a staged boot nobody may be there to confirm.
	p.SelfConfirm = p.SelfConfirm || o.Action == proto.ActionBoot
	return p
}

func forbiddenNotRoot() *proto.Error {
	e := proto.Errorf(proto.CodeForbidden, "only root can activate a system, and the agent does not run as root")
	e.Remedy = "log in as root, or let the user become root: deploy.elevation"
	return e
}

// checkBegin says whether the request names a system that can be activated.
func (s *session) checkBegin(ctx context.Context, req proto.BeginRequest) error {
	switch req.Action {
	case proto.ActionSwitch, proto.ActionBoot, proto.ActionTest, proto.ActionReboot, proto.ActionDryActivate:
	default:
		return proto.Errorf(proto.CodeUsage, "unknown action %.40q", req.Action)
	}
	if err := checkPolicy(req.Guard); err != nil {
		return err
	}
	if req.Owner == "" || len(req.Owner) > 200 || oneLine(req.Owner) != req.Owner {
		return proto.Errorf(proto.CodeUsage, "%.60q does not name who deploys", req.Owner)
	}
	toplevel, err := storepath.Parse(req.Toplevel)
	if err != nil {
		return proto.Errorf(proto.CodeUsage, "%v", err)
	}
	valid, err := s.valid(ctx, toplevel)
	if err != nil {
		return err
	}
	if !valid {
		return pathError(proto.CodeNotFound, toplevel.String(), "toplevel %s is not valid on the host", toplevel)
	}
	return checkSystem(req)
}

func checkPolicy(p *proto.GuardPolicy) error {
	if p == nil {
		return nil
	}
	for _, seconds := range []int{
		p.SwitchSeconds, p.RollbackSeconds, p.ConfirmSeconds, p.BootConfirmSeconds, p.SettleSeconds, p.SoakSeconds,
	} {
		if t := time.Duration(seconds) * time.Second; seconds < 0 || t > maxPatience {
			return proto.Errorf(proto.CodeUsage, "a guard cannot wait for %d seconds: that is out of range", seconds)
		}
	}
	switch guard.RebootPolicy(p.Reboot) {
	case "", guard.RebootNever, guard.RebootIfSafe, guard.RebootAlways:
	default:
		return proto.Errorf(proto.CodeUsage, "%.40q does not say whether a rollback may reboot: never, if-safe or always", p.Reboot)
	}
	return nil
}

// checkSystem looks for what nixpkgs puts into every system that can be switched to.
func checkSystem(req proto.BeginRequest) error {
	if _, err := os.Stat(filepath.Join(req.Toplevel, "nixos-version")); err != nil {
		return pathError(proto.CodeUsage, req.Toplevel, "%s is not a NixOS system: it has no nixos-version", req.Toplevel)
	}
	if _, err := os.Stat(switchProgram(req.Toplevel)); err != nil {
		return pathError(proto.CodeUsage, req.Toplevel,
			"%s cannot be activated: it has no bin/switch-to-configuration (system.switch.enable is off)", req.Toplevel)
	}
	if req.Specialisation == "" {
		return nil
	}
	if !plainName(req.Specialisation) {
		return proto.Errorf(proto.CodeUsage, "%.60q is no name of a specialisation", req.Specialisation)
	}
	if _, err := os.Stat(switchProgram(activePath(req))); err != nil {
		return pathError(proto.CodeNotFound, req.Toplevel, "%s has no specialisation %q", req.Toplevel, req.Specialisation)
	}
	return nil
}

func switchProgram(system string) string {
	return filepath.Join(system, "bin", "switch-to-configuration")
}

// activePath is the system that is activated, as a path below the toplevel.
func activePath(req proto.BeginRequest) string {
	if req.Specialisation == "" {
		return req.Toplevel
	}
	return filepath.Join(req.Toplevel, "specialisation", req.Specialisation)
}

// plainName accepts one component of a path.
func plainName(name string) bool {
	return name != "" && len(name) <= 200 && name[0] != '.' && !strings.ContainsAny(name, "/\x00\n")
}

// lockedNow is the error for who has the host's lock.
func (h *Host) lockedNow() error {
	holder, err := h.readHolder()
	if err != nil || holder == nil {
		holder = &proto.LockHolder{Owner: unknownOwner}
	}
	return lockedError(holder)
}

// free says who has the host's lock.
func (h *Host) free() error {
	holder, err := h.LockHolder()
	if err != nil || holder == nil {
		return err
	}
	return lockedError(holder)
}

// startGuard starts the guard of a transaction that was prepared, and returns when it stands. Where it does not, there is no transaction.
func (s *session) startGuard(ctx context.Context, txn string) (proto.BeginResult, error) {
	h := s.host
	err := h.ensureGuard(ctx, txn)
	if err == nil {
		err = h.awaitGuard(ctx, txn)
	}
	if err == nil {
		return proto.BeginResult{Txn: txn}, nil
	}
	// systemd may have started it all the same, as where it was executed anew meanwhile: who has the journal decides.
	later := context.WithoutCancel(ctx)
	undone, undoErr := h.withdraw(later, txn)
	if undone || undoErr != nil {
		return proto.BeginResult{}, errors.Join(err, undoErr)
	}
	if ctx.Err() != nil {
		// The client could not name it.
		_, abortErr := s.abort(later, proto.TxnRequest{Txn: txn, Reason: "whoever began it has gone away"})
		return proto.BeginResult{}, errors.Join(context.Cause(ctx), abortErr)
	}
	return proto.BeginResult{Txn: txn}, nil
}

// withdraw removes a transaction whose guard never came, and reports whether it did. A guard that comes now finds nothing.
func (h *Host) withdraw(ctx context.Context, txn string) (bool, error) {
	j, err := openJournal(realDisk{}, h.journalPath(txn), h.shadowPath(txn))
	if errors.Is(err, errHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer j.close()
	if j.last.State.Phase != guard.Prepared || j.last.Drained {
		return false, nil
	}
	_ = h.Units.Stop(ctx, guardUnit(txn)) // it would end by itself
	_ = h.Units.Stop(ctx, backstopTimer(txn))
	return true, h.forget(txn)
}

// awaitGuard waits until somebody guards the transaction, or it has ended already. A guard that was seen to come and has gone is started again.
func (h *Host) awaitGuard(ctx context.Context, txn string) error {
	begun, looked := time.Now(), time.Now()
	for {
		if h.journalHeld(txn) {
			return nil
		}
		_, e, err := h.readTxn(txn)
		switch {
		case err != nil:
			return err
		case !e.open() || e.State.Phase == guard.Staged:
			return nil
		case time.Since(begun) > guardStart:
			return fmt.Errorf("the guard of transaction %s does not begin: %s", txn, h.lastWordsOf(txn))
		case time.Since(looked) > unitLook:
			looked = time.Now()
			if err := h.ensureGuard(ctx, txn); err != nil {
				return err
			}
		}
		select {
		case <-time.After(guardPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lastWordsOf returns what a guard has said when it could not go on.
func (h *Host) lastWordsOf(txn string) string {
	text, err := readBounded(filepath.Join(h.txnDir(txn), guardLog), 64<<10)
	if err != nil || len(text) == 0 {
		return "see the host's journal"
	}
	return oneLine(strings.Join(lastLines(string(text), 3), " "))
}
