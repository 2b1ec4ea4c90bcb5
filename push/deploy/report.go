package deploy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fleet/evaluator/plan"
	"fleet/push/proto"
)

// Outcome is how a host's part of a run ended.
type Outcome string

// The outcomes. The first group is success: what the action promises was done.
const (
	// OutcomeUnchanged: the host already was as the action would leave it.
	OutcomeUnchanged Outcome = "unchanged"
	OutcomeBuilt     Outcome = "built"
	// OutcomePushed: valid on the host and protected from garbage collection there.
	OutcomePushed Outcome = "pushed"
	// OutcomeDryActivated: the host said what an activation would do.
	OutcomeDryActivated Outcome = "dry-activated"
	// OutcomeTested: it runs, the next boot brings the old system.
	OutcomeTested Outcome = "tested"
	// OutcomeStaged: the next boot brings it, and decides.
	OutcomeStaged Outcome = "staged"
	// OutcomeSwitched: it runs, and the next boot brings it.
	OutcomeSwitched Outcome = "switched"
	// OutcomeRebooted: it was booted, and the next boot brings it again.
	OutcomeRebooted Outcome = "rebooted"
	// OutcomeReverted: an older generation runs again, as was asked for, and the next boot brings it.
	OutcomeReverted Outcome = "reverted"

	// OutcomeFailed: a step failed; the report's error says which.
	OutcomeFailed Outcome = "failed"
	// OutcomeCancelled: stopped before its activation, because another host failed.
	OutcomeCancelled Outcome = "cancelled"
	// OutcomeRolledBack: failed, and verified to run and boot the old system.
	OutcomeRolledBack Outcome = "rolled-back"
	// OutcomeSecrets: its secrets need action first.
	OutcomeSecrets Outcome = "secrets"
	// OutcomeLocked: another operator's activation holds the host.
	OutcomeLocked Outcome = "locked"
	// OutcomeStopped: not begun, the failure budget was used up.
	OutcomeStopped Outcome = "stopped"
	// OutcomeDeclined: not activated, the person said no.
	OutcomeDeclined Outcome = "declined"
	// OutcomeInterrupted: interrupted before its activation; nothing is left on the host.
	OutcomeInterrupted Outcome = "interrupted"
	// OutcomeDetached: interrupted during its activation, which goes on.
	OutcomeDetached Outcome = "detached"
)

// ExitCode is what a single host with this outcome means for the exit code of the run. What is not known is a failure.
func (o Outcome) ExitCode() ExitCode {
	switch o {
	case OutcomeUnchanged, OutcomeBuilt, OutcomePushed, OutcomeDryActivated, OutcomeTested, OutcomeStaged, OutcomeSwitched, OutcomeRebooted, OutcomeReverted:
		return ExitOK
	case OutcomeRolledBack:
		return ExitRolledBack
	case OutcomeSecrets:
		return ExitSecrets
	case OutcomeLocked:
		return ExitLocked
	case OutcomeStopped:
		return ExitFailureBudget
	case OutcomeDeclined:
		return ExitError
	case OutcomeInterrupted, OutcomeDetached:
		return ExitInterrupted
	}
	return ExitHostsFailed
}

// Success says whether the action was done on the host.
func (o Outcome) Success() bool { return o.ExitCode() == ExitOK }

// StepTime is how long a step of a host took.
type StepTime struct {
	Step     plan.Step
	Duration time.Duration
}

// HostReport is what happened to one host.
type HostReport struct {
	Host    string
	Outcome Outcome
	// Steps are those that were begun, in order.
	Steps []StepTime
	// Paths is how many store paths were sent or taken from a relay, NarBytes their size, WireBytes what went between this machine and the host for them.
	Paths, NarBytes, WireBytes uint64
	// Generation is the number of the system profile's generation after the run, 0 where it is not known.
	Generation int
	// Old is the system that ran before, New the toplevel that the run is about; empty where not known.
	Old, New string
	// Txn is the host's transaction, empty where none was begun.
	Txn string
	// Verdict says how safe the host is after an activation, in a few words: one of the Verdict constants, or empty.
	Verdict Verdict
	// Notices are what a person should know although nothing has failed.
	Notices []string
	// RunsNewBootsOld: the new system runs, though it was not committed, and the next boot brings the old one.
	RunsNewBootsOld bool
	// FailedUnits are the units that failed in the activation, with the end of their logs.
	FailedUnits []proto.FailedUnit
	// Err is a [*HostError] where the outcome is no success and there is more to say.
	Err error
}

// Report is the result of a run.
type Report struct {
	Action   Action
	Fleet    string
	Duration time.Duration
	// Hosts are sorted by name.
	Hosts []HostReport
	// Uncommitted is what stands in the work tree and waits to be committed: secrets that were made. Who keeps the rest of the state adds to it
	// after the run.
	Uncommitted Uncommitted
}

// Uncommitted names files of the fleet's state that a person has to commit.
type Uncommitted struct {
	// Dir is the folder of the flake.
	Dir string
	// Files are relative to Dir, sorted.
	Files []string
}

// Add names more files of the same folder.
func (u *Uncommitted) Add(dir string, files ...string) {
	u.Dir = dir
	u.Files = append(u.Files, files...)
	slices.Sort(u.Files)
	u.Files = slices.Compact(u.Files)
}

// ExitCode is the exit code of the whole run: of all that apply, the first in the order 130, 6, 5, 7, 3, 4, 1; 0 only where every host succeeded.
func (r *Report) ExitCode() ExitCode {
	found := map[ExitCode]bool{}
	for _, h := range r.Hosts {
		found[h.Outcome.ExitCode()] = true
	}
	for _, code := range exitPrecedence() {
		if found[code] {
			return code
		}
	}
	return ExitOK
}

// Err joins the errors of all hosts; nil where there is none.
func (r *Report) Err() error {
	var all []error
	for _, h := range r.Hosts {
		all = append(all, h.Err)
	}
	return errors.Join(all...)
}

// HostError is the failure of one host in one step.
type HostError struct {
	Host string
	Step plan.Step
	Err  error
}

func (e *HostError) Error() string { return fmt.Sprintf("host %q: %s: %v", e.Host, e.Step, e.Err) }
func (e *HostError) Unwrap() error { return e.Err }

// Verdict says how a host stands after a guarded activation.
type Verdict string

// The verdicts. The first three are of a new system, the next ones of the old one.
const (
	VerdictPersistent Verdict = "new, confirmed, persistent"
	VerdictUntilBoot  Verdict = "new, confirmed, until the next boot"
	VerdictUnguarded  Verdict = "new, nobody has confirmed it, persistent"
	VerdictNextBoot   Verdict = "old, and new from the next boot on if that goes well"
	VerdictOld        Verdict = "old, verified"
	VerdictLeft       Verdict = "failed, left as it is"
	VerdictRetrying   Verdict = "failed, the old system does not stand yet, the host still tries"
)

// verdictOf is how a host with an outcome stands.
func verdictOf(outcome Outcome, status proto.TxnStatus) Verdict {
	switch outcome {
	case OutcomeSwitched, OutcomeRebooted, OutcomeReverted:
		return VerdictPersistent
	case OutcomeTested:
		return VerdictUntilBoot
	case OutcomeStaged:
		return VerdictNextBoot
	case OutcomeRolledBack:
		return VerdictOld
	}
	switch status.State {
	case proto.TxnLeftAsIs:
		return VerdictLeft
	case proto.TxnRollbackFailed:
		return VerdictRetrying
	}
	return ""
}

// ActivationError says that a host's activation failed, and what the host runs and boots now.
type ActivationError struct {
	Host   string
	Status proto.TxnStatus
	// RunsNewBootsOld is that of [HostReport].
	RunsNewBootsOld bool
	// Unconfirmed is why we did not confirm the transaction; nil where that did not matter.
	Unconfirmed error
}

// Unwrap gives Unconfirmed.
func (e *ActivationError) Unwrap() error { return e.Unconfirmed }

func (e *ActivationError) Error() string {
	var parts []string
	switch {
	case e.Status.Reason != "":
		parts = append(parts, e.Status.Reason)
	case e.Status.ExitCode != 0:
		parts = append(parts, fmt.Sprintf("switch-to-configuration ended with exit code %d", e.Status.ExitCode))
	}
	if len(e.Status.FailedUnits) > 0 {
		names := make([]string, len(e.Status.FailedUnits))
		for i, u := range e.Status.FailedUnits {
			names[i] = u.Name
		}
		parts = append(parts, "failed units: "+strings.Join(names, ", "))
	}
	if e.Unconfirmed != nil {
		parts = append(parts, "confirming it failed: "+e.Unconfirmed.Error())
	}
	switch {
	case e.Status.State == proto.TxnRolledBack:
		parts = append(parts, "the old system runs and boots, and was verified")
	case e.Status.State == proto.TxnRollbackFailed:
		parts = append(parts, e.retrying())
	case e.RunsNewBootsOld:
		parts = append(parts, "the host runs new, boots old")
	}
	what := string(e.Status.Action)
	if e.Status.Step != "" && e.Status.Step != what {
		what += " (" + e.Status.Step + ")"
	}
	if len(parts) == 0 {
		parts = append(parts, "the host gave no reason")
	}
	return fmt.Sprintf("activate on %q: %s: %s", e.Host, what, strings.Join(parts, "; "))
}

// retrying says loudly that a host is neither new nor old.
func (e *ActivationError) retrying() string {
	text := "THE ROLLBACK HAS FAILED, and the host goes on trying"
	if e.Status.Trouble != "" {
		text += ": " + e.Status.Trouble
	}
	if e.Status.Current != "" {
		text += fmt.Sprintf("; it runs %q and boots %q", e.Status.Current, e.Status.BootDefault)
	}
	return text
}

// Hint says how to look closer.
func (e *ActivationError) Hint() string {
	var hinted interface{ Hint() string }
	switch {
	case e.Status.State == proto.TxnRollbackFailed:
		return fmt.Sprintf("on %s: journalctl -b -u fleet-guard-%s; docs/guide/rollback.md says how to recover by hand; fleet status --on %[1]s says when it stands", e.Host, e.Status.Txn)
	case e.Unconfirmed != nil && errors.As(e.Unconfirmed, &hinted) && hinted.Hint() != "":
		return hinted.Hint()
	case e.Status.State == proto.TxnRolledBack:
		return fmt.Sprintf("mend the configuration and deploy again; fleet attach %s %s prints the whole log again", e.Host, e.Status.Txn)
	}
	if len(e.Status.FailedUnits) > 0 {
		return fmt.Sprintf("on %s: journalctl -b -u %s; mend the configuration and deploy again, a reboot brings the old system back", e.Host, e.Status.FailedUnits[0].Name)
	}
	if e.Status.Txn == "" {
		return fmt.Sprintf("fleet status --on %s shows what it runs and boots; then deploy again", e.Host)
	}
	return fmt.Sprintf("fleet attach %s %s prints the whole log again", e.Host, e.Status.Txn)
}
