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
	Err       error
}

func (e *DetachedError) Error() string {
	return fmt.Sprintf("activation %s on %q goes on without us: %v", e.Txn, e.Host, e.Err)
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
	if name == nil {
		h.want.activated = h.want.toplevel
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
	if name := h.host.Deploy.Specialisation; name != nil && h.Specialisation != nil {
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
	if err := h.begin(); err != nil {
		return err
	}
	log := run.NewLineWriter(func(line string) { h.emit(plan.Event{Kind: plan.EventLog, Message: line}) })
	status, err := h.session.Attach(h.outer, h.report.Txn, func(e proto.TxnEvent) {
		// A LineWriter's Write never fails.
		_, _ = log.Write([]byte(e.Log))
	})
	log.Flush()
	var answer *push.AgentError
	if errors.As(err, &answer) && answer.Code == proto.CodeNotFound {
		return h.forgotten()
	}
	if err != nil {
		var detached *push.DetachedError
		if errors.As(err, &detached) {
			err = detached.Err
		}
		return &DetachedError{Host: h.name, Txn: h.report.Txn, Err: err}
	}
	return h.conclude(status)
}

// forgotten judges a transaction that its host does not know any more. Its files do not outlive a boot, so the host has rebooted in
// the middle of it. What the host is now decides what a person has to do.
func (h *hostRun) forgotten() error {
	status := proto.TxnStatus{Action: proto.Action(h.request.Action), State: proto.TxnFailed, Reason: "the host has rebooted during the activation"}
	if info, err := h.session.Refresh(h.outer); err == nil {
		status.Current, status.Profile, status.BootDefault = info.Current, info.Profile, info.BootDefault
		status.Reason += fmt.Sprintf("; it runs %q and boots %q", info.Current, info.BootDefault)
	}
	h.report.Txn = ""
	return h.conclude(status)
}

// begin opens the transaction. An interruption does not stop it half-way: afterwards it is known whether there is one.
func (h *hostRun) begin() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.outer), h.limits.Begin)
	defer cancel()
	request := proto.BeginRequest{Action: proto.Action(h.request.Action), Toplevel: h.want.toplevel, Owner: h.request.Owner}
	if h.host.Deploy.Specialisation != nil {
		request.Specialisation = *h.host.Deploy.Specialisation
	}
	txn, err := h.session.Begin(ctx, request)
	h.report.Txn = txn
	return err
}

// conclude takes over what a finished transaction says.
func (h *hostRun) conclude(status proto.TxnStatus) error {
	outcome, err := judge(h.name, h.want, status)
	h.report.Outcome = outcome
	h.report.FailedUnits = status.FailedUnits
	if status.Generation > 0 {
		h.report.Generation = status.Generation
	}
	var failed *ActivationError
	if errors.As(err, &failed) {
		h.report.RunsNewBootsOld = failed.RunsNewBootsOld
	}
	return err
}
