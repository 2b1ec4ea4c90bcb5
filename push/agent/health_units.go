package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// sight is what the units of a host looked like at one moment.
type sight struct {
	units    map[string]unitState
	restarts map[string]uint32
}

// look takes a sight.
func look(ctx context.Context, m manager) (sight, error) {
	units, err := m.list(ctx)
	if err != nil {
		return sight{}, err
	}
	var services []string
	for name, s := range units {
		if strings.HasSuffix(name, ".service") && s.Active != "inactive" && !ownUnit(name, s) {
			services = append(services, name)
		}
	}
	restarts, err := m.restarts(ctx, services)
	return sight{units, restarts}, err
}

// ownUnit knows what the deployment itself runs: the guard, its workers and checks, the agent.
func ownUnit(name string, s unitState) bool { return strings.HasPrefix(name, "fleet-") && s.Transient }

// busy says why the host has not settled; empty where it has. Units that were in trouble before, and those that do not count, may go on.
func (s sight) busy(b Baseline, ignore []string) string {
	for _, name := range slices.Sorted(maps.Keys(s.units)) {
		u := s.units[name]
		switch {
		case ownUnit(name, u) || slices.Contains(b.Failed, name) || ignores(ignore, name):
		case u.Job:
			return "a job of " + name + " is queued"
		case u.loops():
			return name + " is about to be started again"
		}
	}
	return ""
}

// suspicion is something about a unit that speaks against the activation.
type suspicion struct {
	unit string
	kind suspicionKind
	text string
}

type suspicionKind int

const (
	// unitBroken is a unit that has failed, and had not before.
	unitBroken suspicionKind = iota
	// unitLoops is one that is started again over and over.
	unitLoops
	// unitGone is one that ran and does not: what it is has to be looked at.
	unitGone
)

// suspect compares what is with what was. In began, restarts are those of the moment at which the looking began, with which a unit that was started
// again once may have been at rest ever since; where patient is false nobody has waited for that.
func suspect(b Baseline, began, now sight, ignore []string, patient bool) (found []suspicion, notices []string) {
	var before []string
	for _, name := range slices.Sorted(maps.Keys(now.units)) {
		u := now.units[name]
		if ownUnit(name, u) || ignores(ignore, name) || strings.HasSuffix(name, ".scope") {
			continue // a scope is somebody's session
		}
		known := slices.Contains(b.Failed, name)
		switch {
		case u.failed() && known:
			before = append(before, name)
		case u.loops():
			found = append(found, suspicion{name, unitLoops, "unit " + name + " ends and is started again and again"})
		case u.failed():
			found = append(found, suspicion{name, unitBroken, "unit " + name + " has failed"})
		case known:
		default:
			s, notice := suspectRestarts(name, b.Restarts[name], began.restarts[name], now.restarts[name], patient)
			found, notices = append(found, s...), append(notices, notice...)
		}
	}
	for _, name := range b.Active {
		if u := now.units[name]; !u.runs() && !u.failed() && !u.Job && !ignores(ignore, name) {
			found = append(found, suspicion{name, unitGone, "unit " + name + " ran before and does not run"})
		}
	}
	if len(before) > 0 {
		notices = append(notices, "failed before and still: "+strings.Join(before, ", "))
	}
	return found, notices
}

// suspectRestarts judges counts of automatic restarts: before the activation, when the looking began, and now. An activation sets them to 0, so one
// that is smaller than before was counted since.
func suspectRestarts(name string, before, began, now uint32, patient bool) (found []suspicion, notices []string) {
	grown := now
	if now >= before {
		grown = now - before
	}
	times := fmt.Sprintf("unit %s was started again %s", name, countTimes(grown))
	switch {
	case grown == 0:
		return nil, nil
	case grown == 1 && now == began && patient:
		return nil, []string{times + " and has stayed up since"}
	}
	return []suspicion{{name, unitLoops, times}}, nil
}

func countTimes(n uint32) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// reactivation is the target by which switch-to-configuration restarts units that come before all others (nixpkgs, switch-to-configuration-ng).
const reactivation = "sysinit-reactivation.target"

// missed says whether a unit that does not run any more is missed, and if not, why.
func missed(name string, f unitFacts, tree unitTree, now sight) (yes bool, why string) {
	up := func(names []string) bool {
		return slices.ContainsFunc(names, func(other string) bool { return now.units[other].runs() })
	}
	service := strings.HasSuffix(name, ".service")
	switch {
	case f.State.runs():
		return false, "it is " + f.Found + " now"
	case !tree.declares(name, f):
		return false, "the system does not have it"
	case tree.manual(name, f):
		return false, "only a person starts it"
	case name == reactivation:
		return false, "it is started by switch-to-configuration alone, and never by a boot"
	case f.OnlyWhileNeeded:
		return false, "it stops when nothing needs it"
	case strings.HasSuffix(name, ".target") && f.NoManualStart:
		return false, "nothing but other units starts it"
	case service && f.Result != "success":
		return true, "" // it has failed, and somebody has reset that
	case f.ConditionFailed:
		return false, "its conditions do not hold"
	case service && f.Type == "oneshot" && !f.RemainAfterExit:
		return false, "it has done its work"
	case service && up(f.TriggeredBy):
		return false, "it is started when it is needed"
	case service && !up(f.PulledIn):
		return false, "it has ended well, and nothing that runs asks for it"
	}
	return true, ""
}

// ignores says whether a unit does not count. What the next deployment needs has to be named in full: a pattern does not cover it.
func ignores(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if pattern == name {
			return true
		}
		matched, err := path.Match(strings.ReplaceAll(pattern, `\`, `\\`), name)
		return err == nil && matched && !onDeployPath(name)
	})
}

// onDeployPath knows units without which nobody may be able to deploy to the host again.
func onDeployPath(name string) bool {
	switch base, _, _ := strings.Cut(name, "."); base {
	case "sshd", "ssh", "nix-daemon", "systemd-networkd", "NetworkManager", "dhcpcd", "wpa_supplicant", "firewall", "nftables", "iptables", "dbus", "dbus-broker":
		return true
	}
	return false
}

// byWeight sorts so that the first tells most: what the next deployment needs, then what has failed, then what is missing.
func byWeight(found []suspicion) {
	weight := func(s suspicion) int {
		if onDeployPath(s.unit) {
			return -1
		}
		return int(s.kind)
	}
	slices.SortStableFunc(found, func(a, b suspicion) int { return cmp.Compare(weight(a), weight(b)) })
}

// investigate drops suspicions that prove to be none, and says why.
func investigate(ctx context.Context, m manager, tree unitTree, now sight, found []suspicion) (proven []suspicion, notices []string, err error) {
	for _, s := range found {
		if len(proven) == maxFailedUnits {
			break
		}
		if s.kind == unitLoops {
			proven = append(proven, s)
			continue
		}
		f, err := m.facts(ctx, s.unit)
		if err != nil {
			return nil, nil, err
		}
		if s.kind == unitBroken {
			s.text += howFailed(f)
			proven = append(proven, s)
			continue
		}
		if yes, why := missed(s.unit, f, tree, now); !yes {
			notices = append(notices, s.text+": "+why)
			continue
		}
		proven = append(proven, s)
	}
	byWeight(proven)
	return proven, notices, nil
}

// howFailed says how a service has failed.
func howFailed(f unitFacts) string {
	switch f.Result {
	case "", "success":
		return ""
	case "exit-code":
		return fmt.Sprintf(" (exit status %d)", f.Status)
	}
	return " (" + f.Result + ")"
}
