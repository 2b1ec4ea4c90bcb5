//go:build cluster

package cluster

import (
	"testing"
	"time"
)

// lookedAtFromHere is a check that only the operator makes and that does not succeed: the guard waits for the confirmation meanwhile.
func lookedAtFromHere(f *field) map[string]any {
	return map[string]any{"health": map[string]any{"nobody": map[string]any{"tcp": f.host.Spec.Address + ":9", "from": "operator", "timeout": 30}}}
}

// kill sends SIGKILL to the operator's program.
func (i *incident) kill() {
	i.strike()
	i.p.signal("KILL")
}

// switching waits until switch-to-configuration runs.
func (i *incident) switching() {
	i.t.Helper()
	i.reach(switching)
	waitFor(i.t, "the worker", func() bool { return processes(i.t, i.h, "[s]witch-to-configuration test") > 0 })
}

func TestGuardWhoseOperatorIsKilled(t *testing.T) {
	f := newField(t)
	waits := lookedAtFromHere(f)
	confirmed := func(i *incident) {
		i.reach(awaitConfirm)
		i.kill()
		i.p.write(map[string]hostSpec{f.host.Name: f.base}) // without the check that fails
		i.p.fleet("confirm", f.host.Name).want(0, string(endNew))
	}
	f.try(
		trial{fault: "the operator is killed during the activation", want: []ending{endOld}, code: killed, with: hostSpec{SlowSeconds: 2}, during: func(i *incident) {
			i.reach(switching)
			i.kill()
		}},
		trial{fault: "the operator is killed while health is looked at", want: []ending{endOld}, code: killed, guard: map[string]any{"soak": 2}, during: func(i *incident) {
			i.reach(judging)
			i.kill()
		}},
		trial{fault: "the operator is killed while the confirmation is waited for", want: []ending{endOld}, code: killed, deploy: waits, during: func(i *incident) {
			i.reach(awaitConfirm)
			i.kill()
		}},
		trial{fault: "the operator is killed, and confirms from a new start", want: []ending{endNew}, code: killed, deploy: waits, guard: map[string]any{"confirmTimeout": 30}, during: confirmed},
		trial{fault: "the operator is killed during the commit", want: []ending{endNew}, code: killed, during: func(i *incident) {
			i.switchFault(false, "boot sleep 2")
			i.reach(committing)
			i.kill()
		}},
		trial{fault: "the operator is killed during the rollback", want: []ending{endOld}, code: killed, with: hostSpec{UnitFails: true}, during: func(i *incident) {
			i.reach(rollingBack)
			i.kill()
		}},
	)
}

func TestGuardThatIsKilled(t *testing.T) {
	f := newField(t)
	const kill = "systemctl kill --signal=KILL 'fleet-guard-*'"
	at := func(faults string, phase string) func(*incident) {
		return func(i *incident) {
			if faults != "" {
				i.switchFault(true, faults)
			}
			i.reach(phase)
			i.sh(kill)
		}
	}
	f.try(
		trial{fault: "the guard is killed during the activation", want: []ending{endNew}, with: hostSpec{SlowSeconds: 2}, during: func(i *incident) {
			i.switching() // before that, nothing was activated, and the next guard goes back
			i.sh(kill)
		}},
		trial{fault: "the guard is killed as soon as the activation begins", want: []ending{endNew, endOld}, during: at("", switching)},
		trial{fault: "the guard is killed while health is looked at", want: []ending{endNew}, guard: map[string]any{"soak": 2}, during: at("", judging)},
		trial{fault: "the guard is killed while the confirmation is waited for", want: []ending{endNew}, during: at("", awaitConfirm)},
		trial{fault: "the guard is killed during the commit", want: []ending{endNew}, during: at("boot sleep 2", committing)},
		trial{fault: "the guard is killed during the rollback", want: []ending{endOld}, code: 4, with: hostSpec{UnitFails: true}, during: at("test sleep 1", rollingBack)},
		trial{fault: "the guard is killed every 200 ms, 20 times", want: []ending{endNew, endOld}, with: hostSpec{SlowSeconds: 3}, during: func(i *incident) {
			i.reach(switching)
			i.sh("for n in $(seq 20); do " + kill + " 2>/dev/null || true; sleep 0.2; done")
		}},
		trial{fault: "the guard is killed during the activation, and no operator comes back", want: []ending{endOld}, code: killed, with: hostSpec{SlowSeconds: 2}, during: func(i *incident) {
			i.switching()
			i.kill()
			i.sh(kill)
		}},
	)
}

func TestGuardWhoseHelpersAreKilled(t *testing.T) {
	f := newField(t)
	slow := hostSpec{SlowSeconds: 3}
	// Without that, every later login waits for a session that nobody opens.
	const busAgain = "systemctl restart dbus.socket dbus.service systemd-logind.service"
	f.try(
		trial{fault: "the worker is killed with all of its processes", want: []ending{endOld}, code: 4, with: slow, during: func(i *incident) {
			i.switching()
			i.sh("systemctl kill --signal=KILL 'fleet-switch-*'")
		}},
		trial{fault: "switch-to-configuration is killed", want: []ending{endOld}, code: 4, during: func(i *incident) {
			i.switchFault(false, "test sleep 3 after activate")
			i.reach(switching)
			waitFor(i.t, "the activation", func() bool { return processes(i.t, i.h, "sleep 3") > 0 })
			i.sh("pkill --signal KILL --full '[s]witch-to-configuration test'")
		}},
		trial{fault: "all of the worker's and of the guard's processes are killed", want: []ending{endOld}, code: 4, with: slow, during: func(i *incident) {
			i.switching()
			i.sh("systemctl kill --signal=KILL 'fleet-guard-*' 'fleet-switch-*'")
		}},
		trial{fault: "the message bus is killed during the activation", want: []ending{endNew, endOld}, with: slow, undo: busAgain, during: func(i *incident) {
			i.reach(switching)
			i.sh("systemctl kill --signal=KILL dbus.service")
		}},
		trial{fault: "the message bus is killed while the confirmation is waited for", want: []ending{endNew, endOld}, undo: busAgain, during: func(i *incident) {
			i.reach(awaitConfirm)
			i.sh("systemctl kill --signal=KILL dbus.service")
		}},
		trial{fault: "the message bus is stopped for good", want: []ending{endNew, endOld}, with: slow, undo: busAgain, during: func(i *incident) {
			i.reach(switching)
			i.sh("systemctl stop dbus.socket dbus.service")
		}},
		trial{fault: "the agent of the session is killed during the activation", want: []ending{endNew}, with: slow, during: func(i *incident) {
			i.reach(switching)
			i.sh("systemctl kill --signal=KILL 'fleet-agent-*'")
		}},
	)
}

func TestGuardInAStormOfReloads(t *testing.T) {
	f := newField(t)
	slow := hostSpec{SlowSeconds: 2}
	storm := func(what string, times string) func(*incident) {
		return func(i *incident) {
			i.reach(prepared, switching)
			i.sh("for n in $(seq " + times + "); do systemctl " + what + " || true; sleep 0.2; done")
		}
	}
	f.try(
		trial{fault: "systemctl daemon-reload, 25 times", want: []ending{endNew}, with: slow, during: storm("daemon-reload", "25")},
		// The switch itself asks systemd, which may just not be there.
		trial{fault: "systemctl daemon-reexec, 15 times", want: []ending{endNew, endOld}, with: slow, during: storm("daemon-reexec", "15")},
		trial{fault: "systemctl daemon-reexec, 30 times, and nobody confirms", want: []ending{endOld}, code: killed, with: slow, during: func(i *incident) {
			i.reach(switching)
			i.kill()
			i.sh("for n in $(seq 30); do systemctl daemon-reexec || true; sleep 0.2; done")
			i.struck = time.Time{} // the deadline is the fault
		}},
	)
}

func TestGuardAndWhatElseHappensOnAHost(t *testing.T) {
	f := newField(t)
	f.try(
		trial{fault: "nix-collect-garbage -d while the confirmation is waited for, which comes", want: []ending{endNew}, deploy: soonHealthy(f), during: func(i *incident) {
			i.reach(awaitConfirm)
			i.sh("nix-collect-garbage -d")
			on(i.t, i.h, openPort)
		}},
		trial{fault: "nix-collect-garbage -d while the confirmation is waited for, which does not come", want: []ending{endOld}, code: killed, deploy: lookedAtFromHere(f), during: func(i *incident) {
			i.reach(awaitConfirm)
			i.kill()
			i.sh("nix-collect-garbage -d")
		}},
		trial{fault: "somebody runs another switch-to-configuration while the confirmation is waited for", want: []ending{endNew}, deploy: soonHealthy(f), during: func(i *incident) {
			i.reach(awaitConfirm)
			i.sh("if /nix/var/nix/profiles/system/bin/switch-to-configuration test; then exit 1; fi")
			on(i.t, i.h, openPort)
		}},
		trial{fault: "the host enters emergency.target while the confirmation is waited for", want: []ending{endOld}, code: killed, deploy: lookedAtFromHere(f), during: func(i *incident) {
			i.reach(awaitConfirm)
			i.kill()
			i.sh("systemctl start --no-block --job-mode=replace-irreversibly emergency.target")
		}},
	)
}

// soonHealthy has the operator wait until a port of the host is open: the guard waits for the confirmation meanwhile.
func soonHealthy(f *field) map[string]any {
	return map[string]any{"health": map[string]any{"later": map[string]any{"tcp": f.host.Spec.Address + ":8099", "from": "operator", "timeout": 7}}}
}

// openPort opens the port that soonHealthy waits for.
const openPort = "systemd-run --quiet --collect --property=RuntimeMaxSec=15 systemd-socket-activate --accept --listen=8099 true"
