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
)

// Actions lists all actions.
func Actions() []Action {
	return []Action{ActionBuild, ActionPush, ActionDryActivate, ActionTest, ActionBoot, ActionSwitch}
}

// Valid says whether there is such an action.
func (a Action) Valid() bool { return slices.Contains(Actions(), a) }

// Activates says whether the action begins a transaction on the host.
func (a Action) Activates() bool { return a != ActionBuild && a != ActionPush }

// Changes says whether the action changes what a host runs or boots.
func (a Action) Changes() bool { return a.Activates() && a != ActionDryActivate }

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
		return boots
	}
	return false
}

// needsSession says whether a host has to be connected to at all.
func needsSession(name string, action Action, h plan.Host) bool {
	return action != ActionBuild || buildPlace(name, h) == buildOnTarget
}

// builders are the hosts that build for others of the selected ones.
func builders(p *plan.Plan, selected []string) map[string]bool {
	found := map[string]bool{}
	for _, name := range selected {
		switch on := p.Hosts[name].Deploy.BuildOn; on {
		case "", buildOnOperator, buildOnTarget:
		case name:
		default:
			found[on] = true
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

// judge turns a finished transaction into an outcome. The host has verified itself already; what it
// says of itself is compared once more, so that a wrong report never ends in success.
func judge(host string, want target, status proto.TxnStatus) (Outcome, error) {
	if status.State != proto.TxnCommitted {
		return judgeFailed(host, want, status)
	}
	var wrong string
	switch runs, boots := contradicts(status.Current, want.activated), contradicts(status.Profile, want.toplevel) || contradicts(status.BootDefault, want.toplevel); {
	case status.Action != proto.ActionDryActivate && contradicts(status.Toplevel, want.toplevel):
		wrong = "the transaction is about another system: " + status.Toplevel
	case (status.Action == proto.ActionSwitch || status.Action == proto.ActionTest) && (runs || status.Current == ""):
		wrong = fmt.Sprintf("it reports success, but runs %q", status.Current)
	case (status.Action == proto.ActionSwitch || status.Action == proto.ActionBoot) && (boots || status.Profile == ""):
		// No boot default is what an unknown boot loader looks like.
		wrong = fmt.Sprintf("it reports success, but its profile is %q and it boots %q", status.Profile, status.BootDefault)
	}
	if wrong != "" {
		status.State, status.Step, status.Reason = proto.TxnFailed, "verify", wrong
		return judgeFailed(host, want, status)
	}
	switch status.Action {
	case proto.ActionDryActivate:
		return OutcomeDryActivated, nil
	case proto.ActionTest:
		return OutcomeTested, nil
	case proto.ActionBoot:
		return OutcomeStaged, nil
	}
	return OutcomeSwitched, nil
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
	if status.Action != proto.ActionSwitch && status.Action != proto.ActionTest {
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
	outcome, err := judge(host, want, status)
	report := HostReport{Host: host, Outcome: outcome, New: status.Toplevel, Txn: status.Txn, Generation: status.Generation, FailedUnits: status.FailedUnits}
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
