package main

import (
	"time"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/push/deploy"
)

// guardOptions are the flags of deploy about the guards of activations.
type guardOptions struct {
	noRollback                     bool
	skipChecks                     []string
	confirm, switchTimeout, soak   time.Duration
	confirmSet, switchSet, soakSet func() bool
	to                             int
	toSet                          func() bool
}

func (o *guardOptions) addFlags(flags *pflag.FlagSet) {
	changed := func(name string) func() bool { return func() bool { return flags.Changed(name) } }
	o.confirmSet, o.switchSet, o.soakSet, o.toSet = changed("confirm-timeout"), changed("switch-timeout"), changed("soak"), changed("to")
	flags.BoolVar(&o.noRollback, "no-rollback", false, "leave a failed activation as it is; the next boot brings the old system all the same")
	flags.StringArrayVar(&o.skipChecks, "skip-check", nil, "go on although the check `NAME` speaks against an activation; may be repeated")
	flags.DurationVar(&o.confirm, "confirm-timeout", 0, "how long a host waits for its confirmation, as `TIME` like 90s or 5m, in place of deploy.guard.confirmTimeout")
	flags.DurationVar(&o.switchTimeout, "switch-timeout", 0, "how long one activation may take, as `TIME`, in place of deploy.guard.switchTimeout")
	flags.DurationVar(&o.soak, "soak", 0, "how long a host has to stay healthy before it is confirmed, as `TIME`, in place of deploy.guard.soak")
	flags.IntVar(&o.to, "to", 0, "the `GENERATION` to roll back to; by default the one before that is another system")
}

func (o *guardOptions) validate(action deploy.Action) error {
	const day = 24 * time.Hour
	for _, d := range []struct {
		flag  string
		set   bool
		value time.Duration
		least time.Duration
	}{
		{"--confirm-timeout", o.confirmSet(), o.confirm, 5 * time.Second}, {"--switch-timeout", o.switchSet(), o.switchTimeout, time.Second}, {"--soak", o.soakSet(), o.soak, 0},
	} {
		if d.set && (d.value < d.least || d.value > day) {
			return cli.Usagef("%s %s: want a time from %s to %s", d.flag, d.value, d.least, day)
		}
	}
	switch {
	case o.toSet() && action != deploy.ActionRollback:
		return cli.Usagef("--to is for rollback")
	case o.toSet() && o.to < 1:
		return cli.Usagef("--to %d: a generation is a number from 1 on", o.to)
	case o.guarded() && !action.Changes():
		return cli.Usagef("--no-rollback, --skip-check, --confirm-timeout, --switch-timeout and --soak are for actions that change a host, which %s does not", action)
	}
	return nil
}

// guarded says whether a flag was given that is about guards.
func (o *guardOptions) guarded() bool {
	return o.noRollback || len(o.skipChecks) > 0 || o.confirmSet() || o.switchSet() || o.soakSet()
}

func (o *guardOptions) overrides() deploy.GuardOverrides {
	overrides := deploy.GuardOverrides{NoRollback: o.noRollback, SkipChecks: o.skipChecks}
	if o.confirmSet() {
		overrides.Confirm = &o.confirm
	}
	if o.switchSet() {
		overrides.Switch = &o.switchTimeout
	}
	if o.soakSet() {
		overrides.Soak = &o.soak
	}
	return overrides
}
