package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
)

// hostRun is one host's way through a run; it belongs to one goroutine.
type hostRun struct {
	*deployment
	name    string
	host    plan.Host
	session Session
	// pusher is the session, or what pushes without the helper; then there is no session, and unable is why.
	pusher Pusher
	unable error
	info   proto.HostInfo
	system plan.System
	// toplevel is the parsed path of system.
	toplevel storepath.Path
	want     target
	// plain says that no specialisation is asked for.
	plain  bool
	report HostReport
	// after is what the host said of itself over the connection that has confirmed its activation.
	after *proto.HostInfo
	// step is the step that is under way, begun when it started.
	step  plan.Step
	begun time.Time
	// recorded, settled and gated say that the host has been counted by the batcher, the rounds and the gate.
	recorded, settled, gated bool
	// records evaluates the host: the run's batcher, later that of a round.
	records *batcher
	// need is what it misses, causes why some of that could not be made.
	need   Need
	causes EnsureError
}

// host takes one host through the run. It returns when the host is done, or has failed, and always with an outcome.
func (r *deployment) host(name string) HostReport {
	h := &hostRun{deployment: r, name: name, host: r.Plan.Hosts[name], report: HostReport{Host: name}, records: r.records}
	err := h.steps()
	if !h.recorded {
		h.records.leave()
	}
	if !h.settled {
		r.secrets.leave()
	}
	if !h.gated && r.gate != nil {
		r.gate.leave()
	}
	if err != nil {
		h.fail(err)
	}
	switch {
	case h.session != nil && !r.builders[name]:
		r.sessions.giveBack(name)
	case h.session == nil && h.pusher != nil:
		_ = h.pusher.Close() // the result is known by now
	}
	return h.report
}

// steps runs the host's steps in order, until the action is done or one fails.
func (h *hostRun) steps() error {
	if needsSession(h.name, h.request.Action, h.host) {
		if err := h.do(plan.StepConnect, h.connect); err != nil {
			return err
		}
	}
	if h.request.Action == ActionRollback {
		return h.rollback()
	}
	if err := h.ready(); err != nil {
		return err
	}
	if h.isUnchanged() {
		return h.skip(plan.StepBuild, plan.StepPush, plan.StepActivate)
	}
	if h.request.Action.Activates() && !h.info.Root {
		h.step = plan.StepActivate
		return &NotRootError{Host: h.name}
	}
	if err := h.do(plan.StepBuild, h.build); err != nil {
		return err
	}
	h.resolveSpecialisation()
	// It reads much of what a push reads, so both do it at once; and what is found is said before anything is activated.
	warnOfLeaks := h.lookForLeaks()
	switch {
	case h.request.Action == ActionBuild:
		warnOfLeaks()
		h.report.Outcome = OutcomeBuilt
		return nil
	case h.isUnchanged():
		warnOfLeaks()
		return h.skip(plan.StepPush, plan.StepActivate)
	}
	err := h.do(plan.StepPush, h.push)
	warnOfLeaks()
	if err != nil {
		return err
	}
	if h.request.Action == ActionPush {
		h.report.Outcome = OutcomePushed
		return nil
	}
	return h.activateStep()
}

// activateStep sees that the host can read its secrets, waits for the confirmation, where one is asked for, and activates.
func (h *hostRun) activateStep() error {
	unreadable, err := h.preflight()
	if err == nil && unreadable != nil && h.request.Action.Changes() {
		err = unreadable
	}
	if err != nil {
		h.step = plan.StepSecrets
		return err
	}
	if h.gate != nil {
		h.gated = true
		if err := h.gate.pass(h.work, Change{Host: h.name, Old: h.info.Current, New: h.want.toplevel}); err != nil {
			h.step = plan.StepActivate
			return err
		}
	}
	err = h.do(plan.StepActivate, h.activate)
	if err == nil && unreadable != nil {
		h.step, err = plan.StepSecrets, unreadable
	}
	return err
}

// do runs one step, times it and reports it.
func (h *hostRun) do(step plan.Step, f func() error) error {
	if err := context.Cause(h.work); err != nil {
		h.step = step
		return err
	}
	h.step, h.begun = step, time.Now()
	h.emit(plan.Event{Kind: plan.EventStarted})
	err := f()
	took := time.Since(h.begun)
	h.report.Steps = append(h.report.Steps, StepTime{Step: step, Duration: took})
	if err == nil {
		h.emit(h.doneEvent(took))
	}
	return err
}

// doneEvent is the last event of a step that succeeded.
func (h *hostRun) doneEvent(took time.Duration) plan.Event {
	event := plan.Event{Kind: plan.EventDone, Seconds: took.Seconds()}
	if h.step == plan.StepPush {
		event.Done, event.Total, event.Unit, event.WireBytes = h.report.NarBytes, h.report.NarBytes, "bytes", h.report.WireBytes
	}
	return event
}

func (h *hostRun) emit(e plan.Event) {
	e.Time, e.Host = time.Now(), h.name
	if e.Step == "" {
		e.Step = h.step
	}
	h.Reporter.Emit(e)
}

// skip ends the host as unchanged.
func (h *hostRun) skip(steps ...plan.Step) error {
	for _, step := range steps {
		h.emit(plan.Event{Kind: plan.EventSkipped, Step: step, Message: "unchanged"})
	}
	h.report.Outcome, h.report.Generation = OutcomeUnchanged, h.info.Generation
	return nil
}

// connect opens the session, or what a push does without one, and ends here where another operator holds the host.
func (h *hostRun) connect() error {
	session, err := h.sessions.get(h.work, h.name)
	if err != nil {
		return h.withoutHelper(err)
	}
	h.session, h.pusher, h.info = session, session, session.Info()
	h.report.Old, h.report.Generation = h.info.Current, h.info.Generation
	return h.locked()
}

// locked is the error for a lock of somebody else, where the action needs it.
func (h *hostRun) locked() error {
	if h.info.Open != nil && h.info.Open.State == proto.TxnStaged {
		return nil // a boot that was staged gives way, which the host decides
	}
	if h.info.Lock != nil && h.request.Action.Activates() {
		return &push.LockedError{Host: h.name, Holder: h.info.Lock}
	}
	return nil
}

func (h *hostRun) evaluate() error {
	h.recorded = true
	result, err := h.records.record(h.work, h.name)
	if err == nil {
		err = h.takeNeed(result)
	}
	if err != nil || !h.need.empty() {
		return err
	}
	if result.Record.System == nil {
		return fmt.Errorf("evaluate %q: its record has no system", h.name)
	}
	h.system = *result.Record.System
	h.want.toplevel = h.system.OutPath
	h.report.New = h.system.OutPath
	if h.toplevel, err = storepath.Parse(h.system.OutPath); err != nil {
		return fmt.Errorf("evaluate %q: %w", h.name, err)
	}
	return h.checkSpecialisation()
}

// isUnchanged says whether there is nothing to do on the host.
func (h *hostRun) isUnchanged() bool {
	return h.session != nil && unchanged(h.request.Action, h.info, h.want)
}

// push makes the toplevel valid on the host and protects it there.
func (h *hostRun) push() error {
	if h.place() == buildOnTarget {
		return h.holding(h.pushes, func() error { return h.session.Root(h.work, h.Plan.Fleet, h.toplevel) })
	}
	request := push.PushRequest{
		Roots: []storepath.Path{h.toplevel}, RootName: h.Plan.Fleet, Substitute: h.substitute(h.host), Signer: h.request.Signer,
	}
	// Whoever waits for a relay holds nothing that hosts without one need.
	taken := h.takeFromRelay(request)
	var sent push.PushResult
	err := h.alone(func() error {
		return h.holding(h.pushes, func() (err error) {
			sent, err = h.pusher.Push(h.work, request)
			return err
		})
	})
	h.report.Paths, h.report.NarBytes, h.report.WireBytes = taken.Paths+sent.Paths, taken.NarBytes+sent.NarBytes, taken.WireBytes+sent.WireBytes
	h.report.Notices = append(h.report.Notices, sent.Notices...)
	return err
}

// substitute says whether a host fetches from its own substituters first.
func (h *hostRun) substitute(on plan.Host) bool {
	if h.request.Substitute != nil {
		return *h.request.Substitute
	}
	return on.Deploy.SubstituteOnDestination
}

// fail sets the outcome that an error stands for, and reports it.
func (h *hostRun) fail(err error) {
	outcome := h.outcomeOf(err)
	h.report.Outcome = outcome
	switch outcome {
	case OutcomeInterrupted, OutcomeDeclined, OutcomeCancelled:
		h.emit(plan.Event{Kind: plan.EventSkipped, Message: string(outcome)})
		return
	}
	h.report.Err = &HostError{Host: h.name, Step: h.step, Err: err}
	event := plan.Event{Kind: plan.EventFailed, Message: err.Error()}
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		event.Hint = hinted.Hint()
	}
	if n := len(h.report.Steps); n > 0 && h.report.Steps[n-1].Step == h.step {
		event.Seconds = h.report.Steps[n-1].Duration.Seconds()
	}
	h.emit(event)
	if h.request.FailFast && outcome != OutcomeDetached {
		h.cancel(errFailFast)
	}
}

// outcomeOf classifies an error of the host. After an interruption or a failure of another host, errors are taken for their consequences.
func (h *hostRun) outcomeOf(err error) Outcome {
	var locked *push.LockedError
	var detached *DetachedError
	var failed *ActivationError
	var missing *MissingSecretsError
	var unreadable *PreflightError
	interrupted := h.outer.Err() != nil
	switch {
	case errors.As(err, &failed) && failed.Status.State == proto.TxnRolledBack:
		return OutcomeRolledBack
	case errors.As(err, &failed):
		return OutcomeFailed
	case errors.As(err, &locked):
		return OutcomeLocked
	case errors.As(err, &detached) && interrupted:
		return OutcomeDetached
	case errors.As(err, &detached):
		return OutcomeFailed
	case errors.As(err, &missing), errors.As(err, &unreadable):
		return OutcomeSecrets
	case errors.Is(err, errDeclined):
		return OutcomeDeclined
	case interrupted:
		return OutcomeInterrupted
	case errors.Is(context.Cause(h.work), errFailFast):
		return OutcomeCancelled
	}
	return OutcomeFailed
}
