package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"fleet/closure/run"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
)

// DetachedError says that an activation goes on without us: we were interrupted, or lost the host.
type DetachedError struct {
	Host, Txn string
	// Guarded says that the host goes back to its old system unless somebody confirms the new one.
	Guarded bool
	Err     error
}

func (e *DetachedError) Error() string {
	text := fmt.Sprintf("activation %s on %q goes on without us: %v", e.Txn, e.Host, e.Err)
	if e.Guarded {
		text += fmt.Sprintf("; unless it is confirmed (fleet confirm %s %s), the host goes back to its old system", e.Host, e.Txn)
	}
	return text
}

func (e *DetachedError) Unwrap() error { return e.Err }

// Hint is the command that attaches to it again.
func (e *DetachedError) Hint() string { return fmt.Sprintf("fleet attach %s %s", e.Host, e.Txn) }

// NotRootError says that we may push to a host, but activate nothing there. Nothing was sent.
type NotRootError struct {
	Host string
}

func (e *NotRootError) Error() string {
	return fmt.Sprintf("activate on %q: only root can activate a system, and the login user does not become root", e.Host)
}

// Hint names the settings.
func (e *NotRootError) Hint() string {
	return fmt.Sprintf(`log in as root (hosts.%[1]s.deploy.user), or let the user become root: hosts.%[1]s.deploy.elevation = "auto"; push works as it is`, e.Host)
}

// SpecialisationError says that a host shall run a specialisation that its system does not have.
type SpecialisationError struct {
	Host, Name string
	// Known are those that it has.
	Known []string
}

func (e *SpecialisationError) Error() string {
	return fmt.Sprintf("evaluate %q: its system has no specialisation %q", e.Host, e.Name)
}

// Hint lists those that there are.
func (e *SpecialisationError) Hint() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("it has none at all: unset hosts.%s.deploy.specialisation, or declare specialisation.%s in its modules", e.Host, e.Name)
	}
	return fmt.Sprintf("set hosts.%s.deploy.specialisation to one of: %s", e.Host, strings.Join(e.Known, ", "))
}

// checkSpecialisation finds out what shall run of the toplevel.
func (h *hostRun) checkSpecialisation() error {
	name := h.host.Deploy.Specialisation
	if name != nil && h.request.Action == ActionReboot {
		h.emit(plan.Event{Kind: plan.EventWarning, Message: fmt.Sprintf("a reboot brings the system itself, without its specialisation %q", *name)})
		name = nil
	}
	if name == nil {
		h.want.activated, h.plain = h.want.toplevel, true
		return nil
	}
	if !slices.Contains(h.system.Specialisations, *name) {
		return &SpecialisationError{Host: h.name, Name: *name, Known: h.system.Specialisations}
	}
	h.resolveSpecialisation()
	return nil
}

// resolveSpecialisation looks up the store path of the specialisation, which is known once the toplevel is in the local store.
func (h *hostRun) resolveSpecialisation() {
	if name := h.host.Deploy.Specialisation; name != nil && h.Specialisation != nil && !h.plain {
		if path, err := h.Specialisation(h.want.toplevel, *name); err == nil {
			h.want.activated = path
		}
	}
}

// activate opens the host's transaction, watches it to its end and judges it.
func (h *hostRun) activate() error {
	if err := h.acquire(h.activations); err != nil {
		return err
	}
	defer func() { <-h.activations }()
	info, err := h.session.Refresh(h.work)
	if err != nil {
		return err
	}
	h.info = info
	h.report.Old = info.Current
	if err := h.locked(); err != nil {
		return err
	}
	v, err := h.prepareVigil()
	if err != nil {
		return err
	}
	if err := h.begin(v); err != nil {
		return err
	}
	status, err := h.watch(v)
	var answer *push.AgentError
	if errors.As(err, &answer) && answer.Code == proto.CodeNotFound {
		return h.forgotten()
	}
	var locked *push.LockedError
	if errors.As(err, &locked) {
		return err
	}
	if err != nil {
		var detached *push.DetachedError
		if errors.As(err, &detached) {
			err = detached.Err
		}
		return &DetachedError{Host: h.name, Txn: h.report.Txn, Guarded: v != nil && !v.policy.SelfConfirm, Err: err}
	}
	return h.conclude(v, status)
}

// prepareVigil finds out how the activation is guarded; it is nil for one that needs no guard.
func (h *hostRun) prepareVigil() (*vigil, error) {
	if !h.request.Action.Changes() {
		return nil, nil
	}
	policy := policyOf(h.host.Deploy, h.need.Specs, h.request.Guard)
	var others map[string]proto.HealthCheck
	policy.Health, others = splitHealth(policy.Health)
	if h.request.Action == ActionBoot {
		policy.SelfConfirm = true // whenever that boot comes, nobody may be there
	}
	for name, check := range others {
		if _, known := h.Plan.Hosts[check.From]; !known && check.From != proto.CheckOperator {
			return nil, &HealthError{Host: h.name, Check: name, From: check.From, Problem: "the fleet has no such host"}
		}
	}
	if len(others) > 0 && policy.SelfConfirm {
		h.emit(plan.Event{Kind: plan.EventWarning, Message: "nobody waits for the confirmation of this activation: the health checks that others than the host make are left out"})
	}
	ways, err := h.ways(h.name)
	if err != nil {
		return nil, err
	}
	return h.newVigil(policy, others, ways), nil
}

// watch follows the transaction to its end.
func (h *hostRun) watch(v *vigil) (proto.TxnStatus, error) {
	if v != nil {
		return v.keep(h.outer)
	}
	log := run.NewLineWriter(func(line string) { h.emit(plan.Event{Kind: plan.EventLog, Message: line}) })
	defer log.Flush()
	return h.session.Watch(h.outer, &push.Watch{Txn: h.report.Txn, Each: func(e proto.TxnEvent) {
		// A LineWriter's Write never fails.
		_, _ = log.Write([]byte(e.Log))
	}})
}

// forgotten judges a transaction that its host does not know any more: it was none that is written down, and the host has rebooted, or what was
// written down is gone. What the host is now decides what a person has to do.
func (h *hostRun) forgotten() error {
	status := proto.TxnStatus{Action: h.request.Action.onHost(), State: proto.TxnFailed, Reason: "the host has rebooted during the activation"}
	if info, err := h.session.Refresh(h.outer); err == nil {
		status.Current, status.Profile, status.BootDefault = info.Current, info.Profile, info.BootDefault
		status.Reason += fmt.Sprintf("; it runs %q and boots %q", info.Current, info.BootDefault)
	}
	h.report.Txn = ""
	return h.conclude(nil, status)
}

// begin opens the transaction. An interruption does not stop it half-way: afterwards it is known whether there is one.
func (h *hostRun) begin(v *vigil) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.outer), h.limits.Begin)
	defer cancel()
	request := proto.BeginRequest{Action: h.request.Action.onHost(), Toplevel: h.want.toplevel, Specialisation: h.specialisation(), Owner: h.request.Owner}
	if v != nil {
		request.Guard = &v.policy
	}
	txn, err := h.session.Begin(ctx, request)
	h.report.Txn = txn
	return err
}

// specialisation is what is activated of the toplevel, empty for itself. A boot brings the toplevel itself.
func (h *hostRun) specialisation() string {
	if h.host.Deploy.Specialisation == nil || h.request.Action == ActionReboot || h.plain {
		return ""
	}
	return *h.host.Deploy.Specialisation
}

// afterwards takes down what the host said of itself over the connection that has confirmed it.
func (h *hostRun) afterwards(info proto.HostInfo) { h.after = &info }

// conclude takes over what a finished transaction says.
func (h *hostRun) conclude(v *vigil, status proto.TxnStatus) error {
	status = h.checkReboot(status)
	outcome, err := judge(h.name, h.want, h.info, status)
	if outcome == OutcomeSwitched && h.request.Action == ActionRollback {
		outcome = OutcomeReverted
	}
	h.report.Outcome, h.report.Verdict = outcome, verdictOf(outcome, status)
	if v != nil && v.policy.SelfConfirm && h.report.Verdict == VerdictPersistent {
		h.report.Verdict = VerdictUnguarded
	}
	h.report.FailedUnits, h.report.Notices = status.FailedUnits, status.Notices
	if status.Generation > 0 {
		h.report.Generation = status.Generation
	}
	var failed *ActivationError
	if errors.As(err, &failed) {
		h.report.RunsNewBootsOld = failed.RunsNewBootsOld
		if v != nil {
			failed.Unconfirmed = v.whyUnconfirmed(status)
		}
	}
	return err
}

// checkReboot holds a host that says that it has rebooted against its boot.
func (h *hostRun) checkReboot(status proto.TxnStatus) proto.TxnStatus {
	if h.request.Action != ActionReboot || status.State != proto.TxnCommitted {
		return status
	}
	if h.after == nil {
		info, err := h.session.Refresh(h.outer)
		if err != nil {
			return status // it has judged itself, which is all that is known
		}
		h.after = &info
	}
	wrong := ""
	switch {
	case h.after.BootID == h.info.BootID:
		wrong = "it reports success, but has not rebooted"
	case contradicts(h.after.Booted, h.want.toplevel):
		wrong = fmt.Sprintf("it reports success, but has booted %q", h.after.Booted)
	}
	if wrong != "" {
		status.State, status.Step, status.Reason = proto.TxnFailed, "verify", wrong
	}
	return status
}
