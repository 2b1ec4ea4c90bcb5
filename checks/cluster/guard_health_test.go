//go:build cluster

package cluster

import (
	"testing"
)

func TestGuardJudgesUnits(t *testing.T) {
	f := newField(t)
	old := []ending{endOld}
	f.try(
		trial{fault: "a new unit fails", want: old, code: 4, says: []string{"cluster-test.service"}, with: hostSpec{UnitFails: true}},
		trial{fault: "a new unit fails that does not count", want: []ending{endNew}, with: hostSpec{UnitFails: true}, guard: map[string]any{"ignoreUnits": []string{"cluster-*"}}},
		trial{fault: "a service restarts over and over", want: old, code: 4, says: []string{"cluster-loop.service"}, with: hostSpec{Modules: []string{"restart-loop"}}, guard: map[string]any{"soak": 2}},
		trial{fault: "a unit that ran is stopped while the host soaks", want: old, code: 4, says: []string{"cluster-test.service"}, guard: map[string]any{"soak": 4}, during: func(i *incident) {
			i.reach(judging)
			i.sh("systemctl stop cluster-test.service")
		}},
		trial{fault: "a unit that ran is stopped while the confirmation is waited for", want: old, code: 4, deploy: lookedAtFromHere(f), during: func(i *incident) {
			i.reach(awaitConfirm)
			i.sh("systemctl stop cluster-test.service")
		}},
	)
}

func TestGuardAndAUnitThatHadFailedBefore(t *testing.T) {
	h := take(t)
	f := &field{t: t, host: h, base: hostSpec{Content: "old of " + t.Name(), Modules: []string{"was-broken"}}}
	guard := quick()
	guard["ignoreUnits"] = []string{"was-broken.service"}
	f.base.Deploy = map[string]any{"address": h.Spec.Address, "guard": guard}
	f.project = newProject(t, map[string]hostSpec{h.Name: f.base})
	f.project.deploy("switch").want(0)
	f.boot()
	f.try(trial{fault: "a unit fails that had failed before", want: []ending{endNew}, with: hostSpec{Modules: []string{"was-broken"}}})
	f.base.Modules = nil
	f.ready(f.project)
}

func TestGuardAsksForHealth(t *testing.T) {
	f := newField(t)
	old := []ending{endOld}
	check := func(c map[string]any) map[string]any {
		c["timeout"] = 3
		return map[string]any{"health": map[string]any{"mine": c}}
	}
	f.try(
		trial{fault: "a health check fails: a command on the host", want: old, code: 4, says: []string{"mine"}, deploy: check(map[string]any{"command": []string{"/bin/sh", "-c", "echo all is lost; exit 1"}})},
		trial{fault: "a health check fails: a port", want: old, code: 4, says: []string{"mine"}, deploy: check(map[string]any{"tcp": "localhost:9"})},
		trial{fault: "a health check fails: a unit", want: old, code: 4, says: []string{"mine"}, deploy: check(map[string]any{"unit": "nothing.service"})},
		trial{fault: "a health check fails: HTTP, from the operator", want: old, code: 4, says: []string{"mine"}, deploy: check(map[string]any{"http": map[string]any{"url": "http://" + f.host.Spec.Address + ":9/"}, "from": "operator"})},
		trial{fault: "a health check hangs", want: old, code: 4, says: []string{"mine"}, deploy: check(map[string]any{"command": []string{"/bin/sleep", "1000"}})},
		trial{fault: "no fault, with health checks", want: []ending{endNew}, deploy: map[string]any{"health": map[string]any{
			"ssh": map[string]any{"tcp": "localhost:22"}, "from-here": map[string]any{"tcp": f.host.Spec.Address + ":22", "from": "operator"},
			"unit": map[string]any{"unit": "cluster-test.service"}, "command": map[string]any{"command": []string{"/bin/true"}},
		}}},
	)
}
