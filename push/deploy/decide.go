package deploy

import (
	"fmt"
	"slices"

	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
)

// Action is what a run does to each host.
type Action string

// The actions. Each includes what it needs of those before it.
const (
	ActionBuild       Action = "build"
	ActionPush        Action = "push"
	ActionDryActivate Action = "dry-activate"
	ActionTest        Action = "test"
	ActionBoot        Action = "boot"
	ActionSwitch      Action = "switch"
	ActionReboot      Action = "reboot"
	// ActionRollback goes back to an older generation that is on the host. It includes nothing of the others.
	ActionRollback Action = "rollback"
)

// Actions lists all actions.
func Actions() []Action {
	return []Action{ActionBuild, ActionPush, ActionDryActivate, ActionTest, ActionBoot, ActionSwitch, ActionReboot, ActionRollback}
}

// Valid says whether there is such an action.
func (a Action) Valid() bool { return slices.Contains(Actions(), a) }

// Activates says whether the action begins a transaction on the host.
func (a Action) Activates() bool { return a != ActionBuild && a != ActionPush }

// Changes says whether the action changes what a host runs or boots.
func (a Action) Changes() bool { return a.Activates() && a != ActionDryActivate }

// onHost is what the action is for a host.
func (a Action) onHost() proto.Action {
	if a == ActionRollback {
		return proto.ActionSwitch
	}
	return proto.Action(a)
}

// The values of deploy.buildOn that are not names of hosts.
const (
	buildOnOperator = "operator"
	buildOnTarget   = "target"
)

// target is what a host shall become.
type target struct {
	// toplevel is the system, activated what runs of it: the toplevel, or the store path of its specialisation; empty where that is not known yet.
	toplevel, activated string
}

// unchanged says whether the host is already as action would leave it. A running specialisation that is not known counts as changed.
func unchanged(action Action, info proto.HostInfo, want target) bool {
	runs := want.activated != "" && info.Current == want.activated && !slices.Contains(info.Unfinished, "test")
	boots := info.Profile == want.toplevel && info.BootDefault == want.toplevel && !slices.Contains(info.Unfinished, "boot")
	switch action {
	case ActionSwitch:
		return runs && boots
	case ActionTest:
		return runs
	case ActionBoot:
		return boots || info.Open != nil && info.Open.State == proto.TxnStaged && info.Open.Toplevel == want.toplevel
	case ActionRollback:
		return runs && boots
	}
	return false // who asks for a reboot gets one
}

// needsSession says whether a host has to be connected to at all.
func needsSession(name string, action Action, h plan.Host) bool {
	return action != ActionBuild || buildPlace(name, h) == buildOnTarget
}

// builders are the hosts that build for others of the selected ones, or relay to them.
func builders(p *plan.Plan, selected []string) map[string]bool {
	found := map[string]bool{}
	for _, name := range selected {
		switch on := p.Hosts[name].Deploy.BuildOn; on {
		case "", buildOnOperator, buildOnTarget:
		case name:
		default:
			found[on] = true
		}
		if relay := relayOf(p.Hosts[name]); relay != "" {
			found[relay] = true
		}
	}
	return found
}

// buildPlace normalises deploy.buildOn of a host: a host that names itself is its own target.
func buildPlace(name string, h plan.Host) string {
	switch h.Deploy.BuildOn {
	case "":
		return buildOnOperator
	case name:
		return buildOnTarget
	}
	return h.Deploy.BuildOn
}

// judge turns a finished transaction into an outcome. The host has verified itself already; what it says of itself is compared once more,
// so that a wrong report never ends in success. old is the host before the transaction, zero where that is not known.
func judge(host string, want target, old proto.HostInfo, status proto.TxnStatus) (Outcome, error) {
	if status.State == proto.TxnRolledBack {
		return judgeRolledBack(host, want, old, status)
	}
	outcome, ok := promised(status)
	if !ok {
		return judgeFailed(host, want, status)
	}
	boots := outcome == OutcomeSwitched || outcome == OutcomeRebooted
	runs := boots || outcome == OutcomeTested
	var wrong string
	switch {
	case outcome != OutcomeDryActivated && contradicts(status.Toplevel, want.toplevel):
		wrong = "the transaction is about another system: " + status.Toplevel
	case runs && (status.Current == "" || contradicts(status.Current, want.activated)):
		wrong = fmt.Sprintf("it reports success, but runs %q", status.Current)
	case status.Action == proto.ActionReboot && !status.Booted:
		wrong = "it reports success, but has not booted the new system"
	case boots && (status.Profile == "" || contradicts(status.Profile, want.toplevel) || contradicts(status.BootDefault, want.toplevel)):
		// No boot default is what an unknown boot loader looks like.
		wrong = fmt.Sprintf("it reports success, but its profile is %q and it boots %q", status.Profile, status.BootDefault)
	}
	if wrong != "" {
		status.State, status.Step, status.Reason = proto.TxnFailed, "verify", wrong
		return judgeFailed(host, want, status)
	}
	return outcome, nil
}

// promised is the outcome of a transaction that has ended as its action promises. A boot that was staged and has come since is committed.
func promised(status proto.TxnStatus) (Outcome, bool) {
	type end struct {
		action proto.Action
		state  proto.TxnState
	}
	switch (end{status.Action, status.State}) {
	case end{proto.ActionDryActivate, proto.TxnCommitted}:
		return OutcomeDryActivated, true
	case end{proto.ActionTest, proto.TxnTested}:
		return OutcomeTested, true
	case end{proto.ActionBoot, proto.TxnStaged}:
		return OutcomeStaged, true
	case end{proto.ActionBoot, proto.TxnCommitted}, end{proto.ActionReboot, proto.TxnCommitted}:
		return OutcomeRebooted, true
	case end{proto.ActionSwitch, proto.TxnCommitted}:
		return OutcomeSwitched, true
	}
	return "", false
}

// judgeRolledBack believes a rollback only where the host runs something that it ran or booted before.
func judgeRolledBack(host string, want target, old proto.HostInfo, status proto.TxnStatus) (Outcome, error) {
	before := []string{old.Current, old.BootDefault, old.Profile}
	if old.Current != "" && status.Current != "" && !slices.Contains(before, status.Current) {
		status.State, status.Step = proto.TxnFailed, "verify"
		status.Reason = fmt.Sprintf("it reports that it is rolled back, but runs %q; %s", status.Current, status.Reason)
		return judgeFailed(host, want, status)
	}
	return OutcomeRolledBack, &ActivationError{Host: host, Status: status}
}

// contradicts says whether both are known and differ.
func contradicts(got, want string) bool { return got != "" && want != "" && got != want }

func judgeFailed(host string, want target, status proto.TxnStatus) (Outcome, error) {
	if status.Lock != nil {
		return OutcomeLocked, &push.LockedError{Host: host, Holder: status.Lock}
	}
	return OutcomeFailed, &ActivationError{Host: host, Status: status, RunsNewBootsOld: runsNewBootsOld(want, status)}
}

// exitUnitsFailed is what switch-to-configuration of NixOS ends with where the new system runs, but units of it failed.
const exitUnitsFailed = 4

// runsNewBootsOld says whether a failed activation left the new system running while the next boot brings the old one.
func runsNewBootsOld(want target, status proto.TxnStatus) bool {
	if status.Action != proto.ActionSwitch && status.Action != proto.ActionTest && status.Action != proto.ActionReboot {
		return false
	}
	runs := status.Current != "" && status.Current == want.activated || status.ExitCode == exitUnitsFailed
	return runs && status.BootDefault != want.toplevel
}

// FromStatus is the report of a host whose transaction was watched on its own. A transaction that has not ended is a failure only where its state says so.
func FromStatus(host string, status proto.TxnStatus) HostReport {
	want := target{toplevel: status.Toplevel}
	if status.Specialisation == "" {
		want.activated = status.Toplevel
	}
	outcome, err := judge(host, want, proto.HostInfo{}, status)
	report := HostReport{
		Host: host, Outcome: outcome, Verdict: verdictOf(outcome, status), New: status.Toplevel, Txn: status.Txn, Generation: status.Generation,
		FailedUnits: status.FailedUnits, Notices: status.Notices,
	}
	if err != nil {
		report.Err = &HostError{Host: host, Step: plan.StepActivate, Err: err}
		report.RunsNewBootsOld = runsNewBootsOld(want, status)
	}
	return report
}

// Matches says whether a host already is as a switch to its evaluated toplevel would leave it. find is that of [Deployer].
func Matches(h plan.Host, toplevel string, find func(toplevel, name string) (string, error), info proto.HostInfo) bool {
	want := target{toplevel: toplevel, activated: toplevel}
	if h.Deploy.Specialisation != nil {
		// One that is not in the local store is not known to match.
		want.activated, _ = find(toplevel, *h.Deploy.Specialisation)
	}
	return unchanged(ActionSwitch, info, want)
}
