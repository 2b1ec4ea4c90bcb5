package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Guard is how the guard of a host's activations is set. Times are in seconds. What JSON leaves out has the value of [DefaultGuard].
type Guard struct {
	// Enable is false for an activation as plain tools do it: what was activated without an error is taken, and nothing is rolled back.
	Enable bool `json:"enable"`
	// SwitchTimeout bounds one activation of the new system, RollbackTimeout one of the old.
	SwitchTimeout   int `json:"switchTimeout"`
	RollbackTimeout int `json:"rollbackTimeout"`
	// ConfirmTimeout is how long a healthy host waits for the confirmation over a new connection; BootConfirm after it has booted.
	ConfirmTimeout int `json:"confirmTimeout"`
	BootConfirm    int `json:"bootConfirm"`
	// Settle bounds how long units may take to settle; Soak is how long the host has to stay healthy after that.
	Settle int `json:"settle"`
	Soak   int `json:"soak"`
	// Reboot says whether a rollback may reboot the host: "never", "if-safe" or "always".
	Reboot string `json:"reboot"`
	// IgnoreUnits are units whose failure does not count; "*" and "?" match as in file names.
	IgnoreUnits []string `json:"ignoreUnits"`
	// SkipChecks are checks before the activation that do not count, by their names.
	SkipChecks []string `json:"skipChecks"`
	// Vantages are other hosts of the fleet, through which the host is reached, in order, where it cannot be reached from here.
	Vantages []string `json:"vantages"`
}

// The values of [Guard.Reboot].
const (
	RebootNever  = "never"
	RebootIfSafe = "if-safe"
	RebootAlways = "always"
)

// DefaultGuard is the guard of a host whose plan says nothing of it.
func DefaultGuard() Guard {
	return Guard{
		Enable: true, SwitchTimeout: 15 * 60, RollbackTimeout: 10 * 60, ConfirmTimeout: 3 * 60, BootConfirm: 10 * 60, Settle: 10, Reboot: RebootIfSafe,
		IgnoreUnits: []string{}, SkipChecks: []string{}, Vantages: []string{},
	}
}

// UnmarshalJSON implements [json.Unmarshaler].
func (g *Guard) UnmarshalJSON(text []byte) error {
	type plain Guard
	p := plain(DefaultGuard())
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	*g = Guard(p)
	return nil
}

// GuardOf is how the guard of a host is set, whether the plan says so or not.
func (d Deploy) GuardOf() Guard {
	if d.Guard == nil {
		return DefaultGuard()
	}
	return *d.Guard
}

// HealthCheck is one look at a host. Exactly one of Command, TCP, HTTP and Unit is given.
type HealthCheck struct {
	// Command is a program with its arguments, which succeeds by exit code 0.
	Command []string `json:"command"`
	// TCP is an address, HOST:PORT, that has to accept a connection.
	TCP  *string    `json:"tcp"`
	HTTP *HTTPCheck `json:"http"`
	// Unit is a systemd unit that has to be active.
	Unit *string `json:"unit"`
	// Timeout is how long the check may take to succeed for the first time, and Interval the pause between two tries, in seconds; 0 means the default.
	Timeout  int `json:"timeout"`
	Interval int `json:"interval"`
	// From is who looks: "host" (also where it is empty), "operator", or another host of the fleet by its name.
	From string `json:"from"`
}

// HTTPCheck asks for a URL.
type HTTPCheck struct {
	URL string `json:"url"`
	// Status is what has to be answered; nil means any of 200 to 299.
	Status *int `json:"status"`
}

// The values of [HealthCheck.From] that are no host's name.
const (
	FromHost     = "host"
	FromOperator = "operator"
)

const (
	// maxSeconds bounds every time of a guard: a day.
	maxSeconds = 24 * 60 * 60
	// minConfirm is what a confirmation takes over a slow link, in seconds.
	minConfirm = 5
	maxCommand = 64 << 10
)

func (v *validation) guard(path string, g Guard) {
	for _, bound := range []struct {
		name       string
		value, min int
	}{
		{"switchTimeout", g.SwitchTimeout, 1}, {"rollbackTimeout", g.RollbackTimeout, 1}, {"confirmTimeout", g.ConfirmTimeout, minConfirm},
		{"bootConfirm", g.BootConfirm, minConfirm}, {"settle", g.Settle, 0}, {"soak", g.Soak, 0},
	} {
		v.seconds(path+"."+bound.name, bound.value, bound.min)
	}
	v.oneOf(path+".reboot", g.Reboot, RebootNever, RebootIfSafe, RebootAlways)
	v.checkAll(path+".ignoreUnits", g.IgnoreUnits, checkUnitPattern)
	v.checkAll(path+".skipChecks", g.SkipChecks, checkName)
}

func (v *validation) seconds(path string, value, least int) {
	if value < least || value > maxSeconds {
		v.add(path, "%d must be a number of seconds from %d to %d", value, least, maxSeconds)
	}
}

func (v *validation) health(path string, checks map[string]HealthCheck) {
	for name, c := range checks {
		at := join(path, name)
		v.check(at, name, checkName)
		v.healthCheck(at, c)
	}
}

func (v *validation) healthCheck(path string, c HealthCheck) {
	given := 0
	if len(c.Command) > 0 {
		given++
		v.command(path+".command", c.Command)
	}
	if c.TCP != nil {
		given++
		v.check(path+".tcp", *c.TCP, checkHostPort)
	}
	if c.HTTP != nil {
		given++
		v.check(path+".http.url", c.HTTP.URL, checkURL)
		if s := c.HTTP.Status; s != nil && (*s < 100 || *s > 599) {
			v.add(path+".http.status", "%d is no status of HTTP, which is a number from 100 to 599", *s)
		}
	}
	if c.Unit != nil {
		given++
		v.check(path+".unit", *c.Unit, checkUnit)
		if c.From == FromOperator {
			v.add(path+".from", "a unit is looked at on a host, not from %s", quote(FromOperator))
		}
	}
	if given != 1 {
		v.add(path, "it must have exactly one of command, tcp, http and unit, not %d", given)
	}
	v.seconds(path+".timeout", c.Timeout, 0)
	v.seconds(path+".interval", c.Interval, 0)
}

// command checks a program with its arguments.
func (v *validation) command(path string, argv []string) {
	size := 0
	for i, arg := range argv {
		size += len(arg) + 1
		if strings.ContainsRune(arg, 0) || i == 0 && arg == "" {
			v.add(fmt.Sprintf("%s[%d]", path, i), "%s is no argument of a program", quote(arg))
		}
	}
	if size > maxCommand {
		v.add(path, "it is longer than %d bytes", maxCommand)
	}
}

// otherHosts checks what names other hosts of the fleet.
func (v *validation) otherHosts(hosts map[string]Host) {
	known := slices.Sorted(maps.Keys(hosts))
	for name, h := range hosts {
		path := join("hosts", name) + ".deploy"
		for i, vantage := range h.Deploy.GuardOf().Vantages {
			v.otherHost(fmt.Sprintf("%s.guard.vantages[%d]", path, i), name, vantage, known)
		}
		v.checkFrom(path+".health", name, h.Deploy.Health, known)
	}
}

// checkFrom checks who looks at a host.
func (v *validation) checkFrom(path, host string, checks map[string]HealthCheck, known []string) {
	for name, c := range checks {
		if c.From != "" && c.From != FromHost && c.From != FromOperator {
			v.otherHost(join(path, name)+".from", host, c.From, known)
		}
	}
}

func (v *validation) otherHost(path, host, other string, known []string) {
	switch {
	case other == host:
		v.add(path, "it must be another host than the one that it is about")
	case !slices.Contains(known, other):
		v.add(path, "%s is no host of the fleet%s", quote(other), didYouMean(other, known, ""))
	}
}

// normaliseDeploy replaces absent lists and maps of what a guard needs.
func normaliseDeploy(d *Deploy) {
	if d.Guard != nil {
		g := *d.Guard
		g.IgnoreUnits, g.SkipChecks, g.Vantages = notNil(g.IgnoreUnits), notNil(g.SkipChecks), notNil(g.Vantages)
		d.Guard = &g
	}
	d.Health = normaliseHealth(d.Health)
	d.Drain, d.Undrain = notNil(d.Drain), notNil(d.Undrain)
}

func normaliseHealth(checks map[string]HealthCheck) map[string]HealthCheck {
	out := make(map[string]HealthCheck, len(checks))
	for name, c := range checks {
		if c.From == "" {
			c.From = FromHost
		}
		out[name] = c
	}
	return out
}
