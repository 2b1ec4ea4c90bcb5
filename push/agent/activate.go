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
	"fleet/push/proto"
)

const (
	defaultSwitchTimeout = 15 * time.Minute
	maxSwitchTimeout     = 24 * time.Hour
	// workerExtra is what a worker may take besides two runs of switch-to-configuration.
	workerExtra = 5 * time.Minute
	// pollInterval is how often a transaction's files are looked at.
	pollInterval = 50 * time.Millisecond
)

// begin opens a transaction and starts its worker. It returns when the worker holds the host's lock.
func (s *session) begin(ctx context.Context, req proto.BeginRequest) (proto.BeginResult, error) {
	h := s.host
	if !h.Root() {
		return proto.BeginResult{}, forbiddenNotRoot()
	}
	if err := s.checkBegin(ctx, req); err != nil {
		return proto.BeginResult{}, err
	}
	holder, err := h.LockHolder()
	if err != nil {
		return proto.BeginResult{}, err
	}
	if holder != nil {
		return proto.BeginResult{}, lockedError(holder)
	}
	helper, err := os.Executable()
	if err != nil {
		return proto.BeginResult{}, err
	}
	txn, err := h.newTxn(request{
		BeginRequest: req, Since: time.Now().UTC().Format(time.RFC3339), BootID: h.bootID(), Detach: !h.Units.Detached(),
	})
	if err != nil {
		return proto.BeginResult{}, err
	}
	if err := h.startWorker(ctx, txn, helper); err != nil {
		return s.notStarted(ctx, txn.Txn, err)
	}
	return s.awaitLock(ctx, txn.Txn)
}

// notStarted is what begin ends in where the worker's unit was not reported as started. systemd may have started it all the same, as
// where it was executed anew meanwhile: whoever decides first, the worker or we, settles whether there is a transaction.
func (s *session) notStarted(ctx context.Context, txn string, cause error) (proto.BeginResult, error) {
	decision, err := s.host.decide(txn, decisionAbort)
	if err == nil && decision == decisionRun {
		return s.awaitLock(ctx, txn)
	}
	// A worker that comes now finds nothing that it could do.
	return proto.BeginResult{}, errors.Join(cause, err, os.RemoveAll(s.host.txnDir(txn)))
}

func forbiddenNotRoot() *proto.Error {
	e := proto.Errorf(proto.CodeForbidden, "only root can activate a system, and the agent does not run as root")
	e.Remedy = "log in as root, or let the user become root: deploy.elevation"
	return e
}

// checkBegin says whether the request names a system that can be activated.
func (s *session) checkBegin(ctx context.Context, req proto.BeginRequest) error {
	switch req.Action {
	case proto.ActionSwitch, proto.ActionBoot, proto.ActionTest, proto.ActionDryActivate:
	default:
		return proto.Errorf(proto.CodeUsage, "unknown action %.40q", req.Action)
	}
	if t := switchTimeout(req); t < 0 || t > maxSwitchTimeout {
		return proto.Errorf(proto.CodeUsage, "a switch timeout of %s is out of range", t)
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

func switchTimeout(req proto.BeginRequest) time.Duration {
	if req.Guard == nil || req.Guard.SwitchSeconds == 0 {
		return defaultSwitchTimeout
	}
	return time.Duration(req.Guard.SwitchSeconds) * time.Second
}

func workerUnit(txn string) string { return "fleet-switch-" + txn + "-1.service" }

func (h *Host) startWorker(ctx context.Context, req request, helper string) error {
	if err := os.MkdirAll(h.rootsDir(), 0o755); err != nil {
		return err
	}
	// Nothing else may keep the toplevel while it is activated: the profile comes later.
	if err := replaceLink(req.Toplevel, filepath.Join(h.rootsDir(), rootPrefix+req.Txn)); err != nil {
		return err
	}
	dir := h.txnDir(req.Txn)
	return h.Units.Start(ctx, Unit{
		Name:        workerUnit(req.Txn),
		Description: fmt.Sprintf("Activation %s (%s) for %s", req.Txn, req.Action, req.Owner),
		Argv:        []string{helper, "activate", "--txn", dir},
		Env:         h.environment(),
		Log:         filepath.Join(dir, switchLog),
		MaxRuntime:  2*switchTimeout(req.BeginRequest) + workerExtra,
		Standalone:  true,
	})
}

// awaitLock waits until the worker has the host's lock or has ended. A client that goes away before that takes the
// transaction with it, since it could not name it.
func (s *session) awaitLock(ctx context.Context, txn string) (proto.BeginResult, error) {
	for {
		st, err := s.host.status(txn)
		if err != nil {
			return proto.BeginResult{}, err
		}
		if st.Lock != nil {
			return proto.BeginResult{}, lockedError(st.Lock)
		}
		if st.State != proto.TxnPrepared {
			return proto.BeginResult{Txn: txn}, nil
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			_, abortErr := s.abort(context.WithoutCancel(ctx), txn)
			return proto.BeginResult{}, errors.Join(context.Cause(ctx), abortErr)
		}
	}
}

// transaction returns the status of a transaction, of the newest one where txn is empty.
func (s *session) transaction(txn string) (proto.TxnStatus, error) {
	if txn == "" {
		newest, err := s.host.newest()
		if err != nil {
			return proto.TxnStatus{}, err
		}
		txn = newest
	}
	return s.host.status(txn)
}

// confirm returns once the transaction is done: an activation without a guard confirms itself.
func (s *session) confirm(ctx context.Context, txn string) (proto.TxnStatus, error) {
	for {
		st, err := s.transaction(txn)
		if err != nil || st.State.Done() {
			return st, err
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return st, context.Cause(ctx)
		}
	}
}

// abort stops a transaction that has not begun. One that has begun goes on: a switch that is stopped half-way leaves a
// host between two systems.
func (s *session) abort(ctx context.Context, txn string) (proto.TxnStatus, error) {
	st, err := s.transaction(txn)
	if err != nil {
		return st, err
	}
	if st.State.Done() {
		return st, nil
	}
	decision, err := s.host.decide(st.Txn, decisionAbort)
	if err != nil {
		return st, err
	}
	if decision == decisionAbort {
		return s.confirm(ctx, st.Txn)
	}
	e := proto.Errorf(proto.CodeForbidden, "transaction %s has begun step %q: stopping it would leave the host between two systems", st.Txn, st.Step)
	e.Remedy = "wait for its end, then deploy the system that the host should have"
	return st, e
}
