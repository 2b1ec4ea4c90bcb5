//go:build cluster

package cluster

import (
	"testing"
	"time"
)

// broken makes switch-to-configuration of the new system fail, or also that of the way back.
func broken(wayBack bool, lines string) func(*incident) {
	return func(i *incident) { i.switchFault(wayBack, lines) }
}

func TestGuardAndEveryEndOfSwitchToConfiguration(t *testing.T) {
	f := newField(t)
	old := []ending{endOld}
	// What R1 cannot do is done by a reboot, which takes the fault away with all of /run.
	f.try(
		trial{fault: "switch-to-configuration exits 1", want: old, code: 4, says: []string{"it refused, or could not finish (exit status 1)"}, during: broken(false, "test exit 1")},
		trial{fault: "switch-to-configuration exits 2, with all of it done", want: old, code: 4, says: []string{"an activation script failed"}, with: hostSpec{Modules: []string{"failing-snippet"}}},
		trial{fault: "switch-to-configuration exits 4, with nothing done", want: old, code: 4, during: broken(false, "test exit 4")},
		trial{fault: "switch-to-configuration exits 11", want: old, code: 4, says: []string{"could not get its lock"}, during: broken(false, "test exit 11")},
		trial{fault: "switch-to-configuration exits 100", want: old, code: 4, says: []string{"needs a reboot"}, during: broken(false, "test exit 100")},
		trial{fault: "switch-to-configuration exits 101 half-way", want: old, code: 4, says: []string{"it crashed"}, during: broken(false, "test exit 101 after activate")},
		trial{fault: "switch-to-configuration exits 1, the old system's, too", want: old, code: 4, during: broken(true, "test exit 1 after activate")},
	)
}

func TestGuardAndASwitchThatDoesNotEnd(t *testing.T) {
	f := newField(t)
	old := []ending{endOld}
	short := map[string]any{"switchTimeout": 4, "rollbackTimeout": 4}
	f.try(
		trial{fault: "switch-to-configuration hangs with its lock", want: old, code: 4, guard: short, during: broken(false, "test hang")},
		trial{fault: "switch-to-configuration hangs half-way", want: old, code: 4, guard: short, during: broken(false, "test hang after activate")},
		trial{fault: "switch-to-configuration hangs and ignores SIGTERM", want: old, code: 4, guard: short, during: broken(false, "test ignore-term\ntest hang before activate")},
		trial{fault: "switch-to-configuration hangs, the old system's, too", want: old, code: 4, guard: short, during: broken(true, "test hang after activate")},
		trial{fault: "a unit starts for longer than the activation may take", want: old, code: 4, guard: short, with: hostSpec{SlowSeconds: 60}},
	)
}

func TestGuardAndACommitThatFails(t *testing.T) {
	f := newField(t)
	old := []ending{endOld}
	short := map[string]any{"switchTimeout": 4, "rollbackTimeout": 4}
	f.try(
		trial{fault: "the boot loader's program fails at the commit", want: old, code: 4, during: broken(false, "boot exit 1")},
		trial{fault: "the boot loader's program fails at the commit, the old system's, too", want: old, code: 4, during: broken(true, "boot exit 1")},
		trial{fault: "the boot loader's program hangs at the commit", want: old, code: 4, guard: short, during: broken(false, "boot hang")},
		trial{fault: "somebody else sets the profile before the commit", want: old, code: 4, guard: map[string]any{"soak": 2}, during: func(i *incident) {
			i.reach(judging)
			i.sh("nix-env --profile /nix/var/nix/profiles/system --set $(nix-store --add /etc/hostname)")
			i.foreign = true
		}},
	)
}

// TestGuardThatMayNotReboot ends in what is neither new nor old for a while, and comes to its end by itself once that is possible.
func TestGuardThatMayNotReboot(t *testing.T) {
	f := newField(t)
	f.try(trial{
		fault: "the old system cannot be activated for a minute, and a reboot is forbidden", want: []ending{endOld}, code: 3,
		guard: map[string]any{"reboot": "never"}, during: func(i *incident) {
			i.switchFault(true, "test exit 1")
			i.reach(rollbackFailed)
			i.strike()
			time.AfterFunc(62*time.Second, func() {
				// The deployment has said what there is to say by then.
				_, _ = i.h.Sh(i.t.Context(), "rm -rf /run/fleet-faults")
			})
		}, says: []string{"ROLLBACK HAS FAILED"}, silent: true,
	})
}

func TestGuardThatIsToLeaveThingsAsTheyAre(t *testing.T) {
	f := newField(t)
	f.try(
		trial{fault: "a unit fails, with --no-rollback", want: []ending{endLeft}, code: 3, args: []string{"switch", "--no-rollback"}, with: hostSpec{UnitFails: true}},
		trial{fault: "no fault, test alone", want: []ending{endUntilBoot}, args: []string{"test"}},
		trial{fault: "a health check fails in test", want: []ending{endOld}, code: 4, args: []string{"test"}, with: hostSpec{UnitFails: true}},
	)
}
