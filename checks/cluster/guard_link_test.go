//go:build cluster

package cluster

import (
	"testing"
	"time"
)

const endSessions = "pkill --signal KILL --full '[s]shd-session|[s]shd: root@' || true"

// cut takes the host's link away until the trial is over, or it is given back.
func (i *incident) cut() (giveBack func()) {
	i.t.Helper()
	i.strike()
	set := func(cut bool) {
		if err := i.h.Cut(i.t.Context(), cut); err != nil {
			i.t.Error(err)
		}
	}
	set(true)
	i.undo(func() { set(false) })
	return func() { set(false) }
}

func TestGuardWithALostConnection(t *testing.T) {
	f := newField(t)
	slow := hostSpec{SlowSeconds: 2}
	f.try(
		trial{fault: "the link is down before the activation begins, for 5 s", want: []ending{endNew}, with: hostSpec{BallastMiB: 8}, during: func(i *incident) {
			waitFor(i.t, "the session", func() bool { return processes(i.t, i.h, "fleet-helper agent serve") > 0 })
			giveBack := i.cut()
			time.Sleep(5 * time.Second)
			giveBack()
		}},
		trial{fault: "SSH connections are killed during the activation", want: []ending{endNew}, with: slow, during: func(i *incident) {
			i.reach(switching)
			i.sh(endSessions)
		}},
		trial{fault: "the link is down during the activation, for 4 s", want: []ending{endNew}, with: slow, during: func(i *incident) {
			i.reach(switching)
			giveBack := i.cut()
			time.Sleep(4 * time.Second)
			giveBack()
		}},
		trial{fault: "SSH connections hang from the activation on, half-open", want: []ending{endNew}, with: slow, guard: map[string]any{"confirmTimeout": 60}, during: func(i *incident) {
			i.reach(switching)
			i.sh("pkill --signal STOP --full '[s]shd-session|[s]shd: root@'")
		}, after: func(i *incident, _ result) { on(i.t, i.h, endSessions) }},
		trial{fault: "SSH connections are killed after the activation", want: []ending{endNew}, guard: map[string]any{"soak": 1}, during: func(i *incident) {
			i.reach(judging)
			i.sh(endSessions)
		}},
		trial{fault: "SSH connections are killed while the confirmation is waited for", want: []ending{endNew}, during: func(i *incident) {
			i.reach(awaitConfirm)
			i.sh(endSessions)
		}},
		trial{fault: "the link is down after the activation, until the host has gone back", want: []ending{endOld}, code: 4, with: slow, during: func(i *incident) {
			i.reach(switching)
			giveBack := i.cut()
			i.reach(rolledBack)
			giveBack()
		}},
	)
}

func TestGuardWhereTheNewSystemLetsNobodyIn(t *testing.T) {
	hosts := takeSome(t, 2)
	f, vantage := fieldOn(t, hosts[0]), hosts[1]
	old := []ending{endOld}
	f.try(
		trial{fault: "the new configuration has no sshd", want: old, code: 4, with: hostSpec{Modules: []string{"no-sshd"}}},
		trial{fault: "the new sshd refuses root", want: old, code: 4, with: hostSpec{Modules: []string{"no-root"}}},
		trial{fault: "the new firewall cuts the host off", want: old, code: 4, with: hostSpec{Modules: []string{"network-cut"}}},
		trial{fault: "the new firewall cuts the operator off", want: old, code: 4, with: hostSpec{Modules: []string{"operator-cut"}}},
		trial{
			fault: "the new firewall cuts the operator off, and there is a vantage", want: []ending{endNew}, says: []string{vantage.Name}, others: map[string]hostSpec{vantage.Name: {}},
			with: hostSpec{Modules: []string{"operator-cut"}}, guard: map[string]any{"vantages": []string{vantage.Name}, "confirmTimeout": 60},
			undo: "systemctl stop cluster-firewall",
		},
	)
}
