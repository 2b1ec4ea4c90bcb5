package deploy

import (
	"maps"
	"slices"
	"time"

	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
)

// GuardOverrides change, for one run, how activations are guarded.
type GuardOverrides struct {
	// NoRollback leaves a failure as it is.
	NoRollback bool
	// SkipChecks names checks before the activation that do not count, beside those of the plan.
	SkipChecks []string
	// Confirm, Switch and Soak replace those of the plan, where they are not nil.
	Confirm, Switch, Soak *time.Duration
}

// policyOf is what a host's guard is told. Health has all checks, of which the guard makes its own.
func policyOf(d plan.Deploy, specs *plan.Specs, o GuardOverrides) proto.GuardPolicy {
	g := d.GuardOf()
	p := proto.GuardPolicy{
		SwitchSeconds: g.SwitchTimeout, RollbackSeconds: g.RollbackTimeout, ConfirmSeconds: g.ConfirmTimeout, BootConfirmSeconds: g.BootConfirm,
		SettleSeconds: g.Settle, SoakSeconds: g.Soak, Reboot: g.Reboot, NoRollback: !g.Enable || o.NoRollback, SelfConfirm: !g.Enable,
		Skip: union(g.SkipChecks, o.SkipChecks), IgnoreUnits: slices.Clone(g.IgnoreUnits), Health: healthOf(d, specs),
		Drain: slices.Clone(d.Drain), Undrain: slices.Clone(d.Undrain),
	}
	for _, override := range []struct {
		field *int
		value *time.Duration
	}{{&p.ConfirmSeconds, o.Confirm}, {&p.SwitchSeconds, o.Switch}, {&p.SoakSeconds, o.Soak}} {
		if override.value != nil {
			*override.field = int(override.value.Round(time.Second) / time.Second)
		}
	}
	return p
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// healthOf joins the checks of the plan with those of the host's own modules; the plan's win.
func healthOf(d plan.Deploy, specs *plan.Specs) map[string]proto.HealthCheck {
	all := map[string]plan.HealthCheck{}
	if specs != nil {
		maps.Copy(all, specs.Health)
	}
	maps.Copy(all, d.Health)
	if len(all) == 0 {
		return nil
	}
	checks := map[string]proto.HealthCheck{}
	for name, c := range all {
		check := proto.HealthCheck{Command: c.Command, TimeoutSeconds: c.Timeout, IntervalSeconds: c.Interval, From: c.From}
		if c.TCP != nil {
			check.TCP = *c.TCP
		}
		if c.Unit != nil {
			check.Unit = *c.Unit
		}
		if c.HTTP != nil {
			check.HTTP = &proto.HTTPCheck{URL: c.HTTP.URL}
			if c.HTTP.Status != nil {
				check.HTTP.Status = *c.HTTP.Status
			}
		}
		checks[name] = check
	}
	return checks
}

// split parts the checks that the host makes from those that others make.
func splitHealth(all map[string]proto.HealthCheck) (host, others map[string]proto.HealthCheck) {
	for name, c := range all {
		into := &others
		if c.From == "" || c.From == proto.CheckHost {
			into = &host
		}
		if *into == nil {
			*into = map[string]proto.HealthCheck{}
		}
		(*into)[name] = c
	}
	return host, others
}

// way is one way to a host.
type way struct {
	// vantage is the host that it leads through, empty where it is the direct one.
	vantage string
	spec    push.HostSpec
}

// ways returns the direct way to a host, and those through its vantages. A vantage that cannot be named or is this machine is none.
func (r *deployment) ways(name string) ([]way, error) {
	described := r.Plan.Hosts[name]
	direct, err := Spec(name, described, r.request.Overrides)
	if err != nil {
		return nil, err
	}
	all := []way{{spec: direct}}
	if direct.Target.Address == addressLocal {
		return all, nil
	}
	for _, vantage := range described.Deploy.GuardOf().Vantages {
		h, ok := r.Plan.Hosts[vantage]
		if !ok || h.Deploy.Address == addressLocal || vantage == name {
			continue
		}
		through, err := Spec(vantage, h, r.request.Overrides)
		if err != nil {
			continue // what is wrong with it is said when it is deployed to
		}
		spec := direct
		spec.Target.Via = &through.Target
		all = append(all, way{vantage: vantage, spec: spec})
	}
	return all, nil
}
