package guard

// Event is something that happened.
type Event struct {
	Kind EventKind
	// Now is when.
	Now Boottime

	// Worker is which worker ended, Exit its program's exit code; -1 for one that was killed or could not be started.
	Worker, Exit int
	// OK and Detail answer an effect: whether it went well, and what was found.
	OK     bool
	Detail string
	// BootID and Seen are what a recovering guard finds. Running says that the present worker's unit still runs, and Result
	// that it has left an exit code, which is in Exit.
	BootID          string
	Seen            Systems
	Running, Result bool
}

// EventKind says what happened.
type EventKind string

// The kinds.
const (
	// Start: the guard stands, and holds the host's lock.
	Start EventKind = "start"
	// Recover: a guard was started anew, by the service manager or after a boot. It comes before any other event.
	Recover EventKind = "recover"
	// WorkerEnded answers [StartWorker].
	WorkerEnded EventKind = "worker-ended"
	// Judged answers [Judge].
	Judged EventKind = "judged"
	// Unhealthy: a check has failed while a confirmation is waited for.
	Unhealthy EventKind = "unhealthy"
	// Confirm: somebody entitled has confirmed, over a connection that was made after the switch.
	Confirm EventKind = "confirm"
	// Abort: somebody entitled wants the old system.
	Abort EventKind = "abort"
	// Tick: time has passed. The deadline counts only here, so that what is decided at it is decided once.
	Tick EventKind = "tick"
	// StepDone answers [SetProfile], [VerifyNew] and [RestoreProfile].
	StepDone EventKind = "step-done"
	// StageDone answers [Stage].
	StageDone EventKind = "stage-done"
	// Verified answers [VerifyOld].
	Verified EventKind = "verified"
	// RebootFailed: the host is still there although it was to go down.
	RebootFailed EventKind = "reboot-failed"
)

// Effect is something to do. Each is idempotent: it may be done again after a crash.
type Effect struct {
	Kind EffectKind
	// Worker is the number of the worker to start or to stop; System the system whose program it runs, and Verb what for.
	Worker int
	System string
	Verb   Verb
}

// Verb is an argument of switch-to-configuration.
type Verb string

// The verbs.
const (
	VerbTest Verb = "test"
	VerbBoot Verb = "boot"
)

// EffectKind says what to do.
type EffectKind string

// The kinds.
const (
	// StartWorker stops whatever other worker of the transaction is left, and runs switch-to-configuration of System with Verb in a unit of its own. Answered
	// by [WorkerEnded], also where it could not be started.
	StartWorker EffectKind = "start-worker"
	// StopWorker kills the worker's processes and waits until they are gone. It is never answered: what was killed has not ended.
	StopWorker EffectKind = "stop-worker"
	// Judge waits until units have settled, compares them with the baseline, and runs the health checks. Answered by [Judged].
	Judge EffectKind = "judge"
	// OpenConfirm holds the lock of switch-to-configuration and lets a confirmation in.
	OpenConfirm EffectKind = "open-confirm"
	// CloseConfirm lets none in any more, and frees that lock.
	CloseConfirm EffectKind = "close-confirm"
	// SetProfile sets the profile to System. Answered by [StepDone].
	SetProfile EffectKind = "set-profile"
	// RestoreProfile makes the old generation the current one again, and removes the one that the transaction made. Answered by [StepDone].
	RestoreProfile EffectKind = "restore-profile"
	// VerifyNew looks whether profile and boot default are the new system. Answered by [StepDone].
	VerifyNew EffectKind = "verify-new"
	// Stage makes the new system the next boot, once, with the old one as the default, and verifies that. Answered by [StageDone].
	Stage EffectKind = "stage"
	// Unstage takes a staged boot back. Never answered: what is found out is found out by [VerifyOld].
	Unstage EffectKind = "unstage"
	// VerifyOld looks whether the host runs and boots what it did. Answered by [Verified].
	VerifyOld EffectKind = "verify-old"
	// RebootHost reboots: politely, then by force. Where the boot default is not the old system, or, while a transaction goes back, another entry
	// is to be booted next, it refuses. Answered by [RebootFailed], or by a new boot.
	RebootHost EffectKind = "reboot-host"
	// Finish drops what the transaction held: roots, but for the last good system's, and the host's lock.
	Finish EffectKind = "finish"
)
