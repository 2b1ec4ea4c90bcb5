// Package guard is the state machine that decides what a guarded activation does next. It is pure: no clock, no file, no process. Whoever
// runs it writes every state down before anything that follows from it is done, and tells it what happened.
//
// The plan is to test first and commit later: the new system is activated without touching the profile or the boot default, it is judged on
// the host, somebody who comes over a new connection confirms it, and only then it becomes what boots. Whatever stops the host before that
// boots the old system, without any help of ours; whatever else goes wrong ends in the rollback ladder:
//
//	R1  activate the old system again, and verify it
//	R2  reboot into the boot default, which is the old system still, once
//	R3  where a reboot is forbidden, or has not helped: R1 again and again, said loudly
//
// A transaction ends in Committed, Tested or Staged (new), RolledBack (old, verified), or LeftAsIs (nobody wanted a rollback). RollbackFailed
// is no end: it goes on trying.
package guard

import "time"

// Boottime is a moment of CLOCK_BOOTTIME: time since the boot, with the time that the machine slept. No step of the wall clock
// changes it, and it starts anew with every boot.
type Boottime time.Duration

// Add is a later moment.
func (t Boottime) Add(d time.Duration) Boottime { return t + Boottime(d) }

// Action is what a transaction is to do.
type Action string

// The actions.
const (
	// Switch activates, and commits what was confirmed.
	Switch Action = "switch"
	// Test activates until the next boot.
	Test Action = "test"
	// Boot stages the next boot alone, whenever that comes; the host confirms itself then.
	Boot Action = "boot"
	// Reboot stages the next boot, reboots, and commits what was confirmed.
	Reboot Action = "reboot"
)

// RebootPolicy says whether a rollback may reboot the host.
type RebootPolicy string

// The policies.
const (
	// RebootNever is for hosts that wait for a person when they boot, as with an encrypted disk.
	RebootNever RebootPolicy = "never"
	// RebootIfSafe reboots where the boot default is the system that ran and the kernel that it boots is the one that ran.
	RebootIfSafe RebootPolicy = "if-safe"
	// RebootAlways reboots where the boot default is the old system.
	RebootAlways RebootPolicy = "always"
)

// Policy is how patient a transaction is. It is settled before it begins.
type Policy struct {
	// Switch bounds one activation of the new system.
	Switch time.Duration `json:"switch"`
	// Confirm is how long a confirmation is waited for, from the moment at which the host is healthy.
	Confirm time.Duration `json:"confirm"`
	// Rollback bounds one activation of the old system.
	Rollback time.Duration `json:"rollback"`
	// Judge bounds settling, soaking and health checks, which have limits of their own; it is a backstop.
	Judge time.Duration `json:"judge"`
	// BootConfirm is how long a confirmation is waited for after a reboot, from the boot.
	BootConfirm time.Duration `json:"bootConfirm"`
	// Reboot says whether R2 is allowed; RebootSafe is what pre-flight found out for [RebootIfSafe].
	Reboot     RebootPolicy `json:"reboot"`
	RebootSafe bool         `json:"rebootSafe"`
	// NoRollback leaves a failure as it is.
	NoRollback bool `json:"noRollback,omitempty"`
	// SelfConfirm takes the host's own health for a confirmation.
	SelfConfirm bool `json:"selfConfirm,omitempty"`
}

// Systems is what a host runs and boots, as toplevels.
type Systems struct {
	// Current is what was activated last; it may be a specialisation.
	Current string `json:"current"`
	Booted  string `json:"booted"`
	Profile string `json:"profile"`
	// Generation is the profile's, 0 where there is none.
	Generation  int    `json:"generation"`
	BootDefault string `json:"bootDefault"`
}

// Phase is where a transaction is.
type Phase string

// The phases. Those of the first group are its way to a new system, those of the second its way back, those of the third its end.
const (
	// Prepared: nothing was done.
	Prepared Phase = "prepared"
	// Switching: the new system is being activated.
	Switching Phase = "switching"
	// Judging: it is activated; units settle and health is looked at.
	Judging Phase = "judging"
	// AwaitConfirm: it is healthy as far as the host can tell.
	AwaitConfirm Phase = "await-confirm"
	// Committing: it was confirmed, and becomes what boots.
	Committing Phase = "committing"
	// Staging: the next boot is being prepared, with the old default.
	Staging Phase = "staging"
	// Rebooting: the host is going down to boot the new system.
	Rebooting Phase = "rebooting"

	// RollingBack: R1.
	RollingBack Phase = "rolling-back"
	// RollbackReboot: R2, the host is going down.
	RollbackReboot Phase = "rollback-reboot"
	// RollbackFailed: R3, until the next try.
	RollbackFailed Phase = "rollback-failed"
	// Verifying: the old system should run again; that is looked at.
	Verifying Phase = "verifying"

	// Committed: the new system runs, and boots.
	Committed Phase = "committed"
	// Tested: the new system runs until the next boot.
	Tested Phase = "tested"
	// Staged: the next boot brings the new system, once, and decides. It ends at that boot, or when it is aborted.
	Staged Phase = "staged"
	// RolledBack: the old system runs and boots, and was verified.
	RolledBack Phase = "rolled-back"
	// LeftAsIs: it failed, and was to be left as it is.
	LeftAsIs Phase = "left-as-is"
)

// Ended says whether nothing more will happen, whatever comes.
func (p Phase) Ended() bool {
	switch p {
	case Committed, Tested, RolledBack, LeftAsIs:
		return true
	}
	return false
}

// Succeeded says whether a transaction that stands in p has done what it was to do.
func (p Phase) Succeeded() bool { return p == Committed || p == Tested || p == Staged }

// CommitStep is a step of Committing, and of its undoing, in their order. All are idempotent.
type CommitStep string

// The steps.
const (
	// CommitProfile sets the system profile.
	CommitProfile CommitStep = "profile"
	// CommitBoot installs the boot entries and the default, by the system's own program.
	CommitBoot CommitStep = "boot"
	// CommitVerify looks whether both are as they should be.
	CommitVerify CommitStep = "verify"
)

// State is all that the machine knows. It is written down whole, before what follows from it is done.
type State struct {
	Action Action `json:"action"`
	Policy Policy `json:"policy"`
	// Old is what the host was when the transaction was prepared.
	Old Systems `json:"old"`
	// New is the toplevel, Target what is activated of it: itself, or a specialisation.
	New    string `json:"new"`
	Target string `json:"target"`

	Phase Phase `json:"phase"`
	// BootID is the boot that Deadline and the worker belong to.
	BootID string `json:"bootId"`
	// Deadline ends the phase; zero where it has none.
	Deadline Boottime `json:"deadline,omitempty"`
	// Worker counts the workers: the present or last one has this number.
	Worker int `json:"worker,omitempty"`
	// Step is the step that Committing, or its undoing, is at.
	Step CommitStep `json:"step,omitempty"`
	// Touched says that profile or boot default may have been changed, so that a rollback has to put them back.
	Touched bool `json:"touched,omitempty"`
	// Confirmed says that the new system was confirmed. It is never taken back, but a commit that fails is rolled back.
	Confirmed bool `json:"confirmed,omitempty"`
	// Booted says that the new system was booted, by a one-shot entry, and not activated on top of the old one.
	Booted bool `json:"booted,omitempty"`
	// NewBoot says that the host has booted since the transaction was prepared: the old system is then its boot default, and not what ran.
	NewBoot bool `json:"newBoot,omitempty"`
	// Rebooted says that R2 was used up.
	Rebooted bool `json:"rebooted,omitempty"`
	// Tries counts R1.
	Tries int `json:"tries,omitempty"`
	// Reason is why it failed: what came first.
	Reason string `json:"reason,omitempty"`
	// Trouble is the last thing that went wrong with the rollback itself.
	Trouble string `json:"trouble,omitempty"`
	// ExitCode is that of the new system's switch-to-configuration.
	ExitCode int `json:"exitCode,omitempty"`
}

// Begin is the state of a transaction that was prepared.
func Begin(action Action, policy Policy, old Systems, toplevel, target, bootID string) State {
	return State{Action: action, Policy: policy, Old: old, New: toplevel, Target: target, Phase: Prepared, BootID: bootID}
}
