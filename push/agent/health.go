package agent

import (
	"context"
	"time"

	"fleet/push/proto"
)

// Baseline is what ran before an activation. It is part of a journal's first record, so it is bounded.
type Baseline struct {
	// Active are the units that a system declares and that ran, Failed those that had failed or restarted over and over.
	Active []string `json:"active,omitempty"`
	Failed []string `json:"failed,omitempty"`
	// Restarts are systemd's counts of automatic restarts, of the units that have been restarted.
	Restarts map[string]uint32 `json:"restarts,omitempty"`
	// SSHPorts are the TCP ports that an SSH server listened on.
	SSHPorts []uint16 `json:"sshPorts,omitempty"`
}

// Trial is what an activated host is judged by.
type Trial struct {
	Baseline Baseline
	Policy   proto.GuardPolicy
	// Toplevel is the system that was activated, or the specialisation; empty means the one that runs.
	Toplevel string
	// Exit is how its switch-to-configuration ended, 0 or 4; it is 0 where the system was booted.
	Exit int
	// Dir takes what commands print, a private folder.
	Dir string
	// Log takes a line for people, free of escape codes and bounded.
	Log func(string)
}

// Verdict says what is wrong with a host: nothing, where Failures is empty.
type Verdict struct {
	// Failures are sentences, the first one being the most telling.
	Failures []string
	// Units are the units among them, with the end of their logs.
	Units []proto.FailedUnit
}

// TakeBaseline looks at the units of the host.
func (h *Host) TakeBaseline(ctx context.Context) (Baseline, error) {
	failed, err := h.Units.Failed(ctx)
	return Baseline{Failed: failed}, err
}

// Examine waits until the host's units have settled, compares them with the baseline, runs the checks until each has passed, and soaks.
// It ends at the first failure that time does not mend, and at the latest after [Host.TrialTime].
func (h *Host) Examine(ctx context.Context, t Trial) Verdict { return Verdict{} }

// Watch looks at units and checks until something is wrong, or ctx ends; then it returns the zero Verdict.
func (h *Host) Watch(ctx context.Context, t Trial) Verdict {
	<-ctx.Done()
	return Verdict{}
}

// TrialTime bounds an Examine: it never takes longer.
func (h *Host) TrialTime(t Trial) time.Duration { return time.Hour }

// RestoreUnits starts once what ran before and does not run, and returns what still does not. Units that ignore covers do not count.
func (h *Host) RestoreUnits(ctx context.Context, b Baseline, ignore []string, log func(string)) []string {
	return nil
}

// SSHMissing says which of the ports that SSH servers listened on nobody listens on any more.
func (h *Host) SSHMissing(b Baseline) []uint16 { return nil }

// Judge is [Host.Examine] of the system that runs, without the parts of its verdict.
func (h *Host) Judge(ctx context.Context, b Baseline, exit int, p proto.GuardPolicy, log func(string)) []string {
	return h.Examine(ctx, Trial{Baseline: b, Policy: p, Exit: exit, Log: log}).Failures
}
