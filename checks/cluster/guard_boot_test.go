//go:build cluster

package cluster

import (
	"testing"
	"time"
)

// powerCut takes the host's power away, and gives it back.
func (i *incident) powerCut() {
	i.t.Helper()
	i.strike()
	if err := i.h.PowerCut(i.t.Context(), true); err != nil {
		i.t.Error(err)
	}
}

func (i *incident) reboot() {
	i.t.Helper()
	i.strike()
	if err := i.h.Reboot(i.t.Context()); err != nil {
		i.t.Error(err)
	}
}

func TestGuardAndALossOfPower(t *testing.T) {
	f := newField(t)
	old, either := []ending{endOld}, []ending{endNew, endOld}
	at := func(phase string) func(*incident) {
		return func(i *incident) {
			i.reach(phase)
			i.powerCut()
		}
	}
	f.try(
		trial{fault: "the power is cut during the activation", want: old, code: 4, with: hostSpec{SlowSeconds: 5}, during: at(switching)},
		trial{fault: "the power is cut while health is looked at", want: old, code: 4, guard: map[string]any{"soak": 3}, during: at(judging)},
		trial{fault: "the power is cut while the confirmation is waited for", want: old, code: 4, deploy: lookedAtFromHere(f), during: at(awaitConfirm)},
		trial{fault: "the power is cut during the commit", want: either, during: func(i *incident) {
			i.switchFault(true, "boot sleep 2")
			i.reach(committing)
			time.Sleep(500 * time.Millisecond)
			i.powerCut()
		}},
		trial{fault: "the power is cut during the rollback", want: old, code: 4, with: hostSpec{UnitFails: true}, during: func(i *incident) {
			i.switchFault(true, "test sleep 1")
			i.reach(rollingBack)
			i.powerCut()
		}},
		trial{fault: "the power is cut during the rollback's own reboot", want: old, code: 4, during: func(i *incident) {
			i.switchFault(true, "test exit 1 after activate")
			i.reach(rollbackReboot)
			i.powerCut()
		}},
	)
}

func TestGuardAndAReboot(t *testing.T) {
	f := newField(t)
	old := []ending{endOld}
	f.try(
		trial{fault: "somebody reboots the host during the activation", want: old, code: 4, with: hostSpec{SlowSeconds: 5}, during: func(i *incident) {
			i.reach(switching)
			i.reboot()
		}},
		trial{fault: "somebody reboots the host while the confirmation is waited for", want: old, code: 4, deploy: lookedAtFromHere(f), during: func(i *incident) {
			i.reach(awaitConfirm)
			i.reboot()
		}},
		trial{fault: "no fault, reboot", want: []ending{endNew}, args: []string{"reboot"}},
		trial{fault: "the new system panics in its first boot, reboot", want: old, code: 4, args: []string{"reboot"}, with: hostSpec{Modules: []string{"panics"}}},
		trial{fault: "the booted system lets nobody in, reboot", want: old, code: 4, args: []string{"reboot"}, with: hostSpec{Modules: []string{"network-cut"}}, guard: map[string]any{"bootConfirm": 8}},
		trial{fault: "a unit of the booted system fails, reboot", want: old, code: 4, args: []string{"reboot"}, with: hostSpec{UnitFails: true}},
		trial{fault: "the power is cut in the first boot, before its confirmation, reboot", want: old, code: 4, args: []string{"reboot"}, deploy: lookedAtFromHere(f), during: func(i *incident) {
			i.reach(awaitConfirm)
			i.powerCut()
		}},
		trial{fault: "the entry for one boot is lost, reboot", want: old, code: 4, args: []string{"reboot"}, during: func(i *incident) {
			i.reach(rebooting)
			i.loseOneShot()
		}},
		trial{fault: "the operator is killed before the host is down, reboot", want: old, code: killed, args: []string{"reboot"}, guard: map[string]any{"bootConfirm": 6}, during: func(i *incident) {
			i.reach(rebooting)
			i.kill()
		}},
	)
}

// loseOneShot removes the entry for one boot as soon as the guard cannot see that any more.
func (i *incident) loseOneShot() {
	i.t.Helper()
	i.strike()
	on(i.t, i.h, "for n in $(seq 200); do if systemctl list-jobs --plain --no-legend | grep -q reboot.target; then break; fi; sleep 0.01; done; rm -f /boot/loader/oneshot")
}

func TestGuardAndTheNextBoot(t *testing.T) {
	f := newField(t)
	boot := []string{"boot"}
	next := func(i *incident, _ result) {
		i.reboot()
		if !i.awaitEnd(trialPatience) {
			i.t.Errorf("the transaction did not end after the boot: %s", i.story())
		}
	}
	f.try(
		trial{fault: "no fault, boot, with the boot later on", want: []ending{endNew}, code: 0, args: boot, after: next, silent: true},
		trial{fault: "the new system panics in its first boot, boot", want: []ending{endOld}, code: 0, args: boot, with: hostSpec{Modules: []string{"panics"}}, after: next, silent: true},
		trial{fault: "a unit of the booted system fails, boot", want: []ending{endOld}, code: 0, args: boot, with: hostSpec{UnitFails: true}, after: next, silent: true},
		trial{fault: "boot is followed by a switch", want: []ending{endNew}, code: 0, args: boot, after: func(i *incident, _ result) {
			i.p.deploy("switch", "--on", i.h.Name).want(0)
		}, silent: true},
	)
}
