package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a plan.
type Fault struct {
	// Path is where, as "hosts.web-1.deploy.port".
	Path string
	// Message says what is wrong with the value that was found, and what is right.
	Message string
}

// InvalidError lists all faults of a plan, sorted by path.
type InvalidError struct {
	// What is "plan" or "record".
	What   string
	Faults []Fault
}

// Error names every fault, up to a number that a person can still read.
func (e *InvalidError) Error() string {
	const shown = 25
	var b strings.Builder
	fmt.Fprintf(&b, "check %s: %d fault", e.What, len(e.Faults))
	if len(e.Faults) != 1 {
		b.WriteByte('s')
	}
	for i, f := range e.Faults {
		if i == shown {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Faults)-shown)
			break
		}
		fmt.Fprintf(&b, "\n  %s: %s", f.Path, f.Message)
	}
	return b.String()
}

// Validate looks for everything that later steps rely on, and returns all faults at once as an [*InvalidError]. Two hosts
// with one address are not its business: the fleet's own named check says that, and can be told to be silent.
func (p *Plan) Validate() error {
	v := new(validation)
	if p.FormatVersion != FormatVersion {
		v.add("formatVersion", "it is %d, and must be %d", p.FormatVersion, FormatVersion)
	}
	v.check("fleet", p.Fleet, checkName)
	for system, h := range p.Helpers {
		v.helper(join("helpers", system), system, h)
	}
	for name, h := range p.Hosts {
		v.host(join("hosts", name), name, h)
	}
	v.buildOn(p.Hosts)
	v.relays(p.Hosts)
	v.otherHosts(p.Hosts)
	for name, secret := range p.SharedSecrets {
		path := join("sharedSecrets", name)
		v.secret(path, name, secret)
		for i, owner := range secret.Owners {
			if _, ok := p.Hosts[owner]; !ok {
				v.add(fmt.Sprintf("%s.owners[%d]", path, i), "%s is no host of the fleet%s", quote(owner), didYouMean(owner, slices.Sorted(maps.Keys(p.Hosts)), ""))
			}
		}
		if g := secret.Generator; g != nil && g.On != nil {
			if _, ok := p.Hosts[*g.On]; !ok {
				v.add(path+".generator.on", "%s is no host of the fleet%s", quote(*g.On), didYouMean(*g.On, slices.Sorted(maps.Keys(p.Hosts)), ""))
			}
		}
	}
	for name, r := range p.Records {
		path := join("records", name)
		if _, ok := p.Hosts[name]; !ok {
			v.add(path, "there is no host of that name in hosts")
		}
		v.record(path, r)
		if r.Specs != nil {
			v.checkFrom(path+".specs.health", name, r.Specs.Health, slices.Sorted(maps.Keys(p.Hosts)))
		}
	}
	return v.err("plan")
}

// validation collects faults.
type validation struct{ faults []Fault }

func (v *validation) add(path, format string, args ...any) {
	v.faults = append(v.faults, Fault{Path: path, Message: fmt.Sprintf(format, args...)})
}

// check applies a rule to a value; a rule returns what is wrong, or nothing.
func (v *validation) check(path, value string, rule func(string) string) {
	if fault := rule(value); fault != "" {
		v.add(path, "%s: %s", quote(value), fault)
	}
}

func (v *validation) checkAll(path string, values []string, rule func(string) string) {
	for i, value := range values {
		v.check(fmt.Sprintf("%s[%d]", path, i), value, rule)
	}
}

func (v *validation) err(what string) error {
	if len(v.faults) == 0 {
		return nil
	}
	slices.SortFunc(v.faults, func(a, b Fault) int {
		return strings.Compare(a.Path+"\x00"+a.Message, b.Path+"\x00"+b.Message)
	})
	return &InvalidError{What: what, Faults: v.faults}
}

func (v *validation) helper(path, system string, h Helper) {
	v.check(path, system, checkSystem)
	if h.Package == "" && h.Path == "" {
		v.add(path, "it has neither package nor path")
	}
	if h.Package != "" {
		v.check(path+".package", h.Package, checkName)
	}
	if h.Path != "" {
		v.check(path+".path", h.Path, checkStorePath)
	}
}

func (v *validation) host(path, name string, h Host) {
	v.check(path, name, checkName)
	if name == BuildOnOperator || name == BuildOnTarget {
		v.add(path, "a host cannot have this name, deploy.buildOn gives it another meaning")
	}
	if h.System == "" {
		v.add(path+".system", "it is missing; set hosts.%s.system, for example to \"x86_64-linux\"", name)
	} else {
		v.check(path+".system", h.System, checkSystem)
	}
	v.checkAll(path+".tags", h.Tags, checkTag)
	v.checkAll(path+".network.internalIps", h.Network.InternalIPs, checkIP)
	v.checkAll(path+".network.externalIps", h.Network.ExternalIPs, checkIP)
	v.checkAll(path+".record", h.Record, checkAttr)
	v.deploy(path+".deploy", h.Deploy)
}

func (v *validation) deploy(path string, d Deploy) {
	v.check(path+".address", d.Address, checkAddress)
	if d.Port != nil && (*d.Port < 1 || *d.Port > 65535) {
		v.add(path+".port", "%d is no port, which is a number from 1 to 65535", *d.Port)
	}
	if d.User != nil {
		v.check(path+".user", *d.User, checkUser)
	}
	v.checkAll(path+".jumpHosts", d.JumpHosts, checkJumpHost)
	v.checkAll(path+".hostKeys", d.HostKeys, checkHostKey)
	if d.RelayPort < 0 || d.RelayPort > 65535 {
		v.add(path+".relayPort", "%d is no port, which is a number from 1 to 65535, or 0 for any", d.RelayPort)
	}
	v.oneOf(path+".transport", d.Transport, "native", "openssh")
	v.oneOf(path+".elevation", d.Elevation, "auto", "none", "sudo", "doas", "run0")
	if d.Specialisation != nil {
		v.check(path+".specialisation", *d.Specialisation, checkName)
	}
	v.guard(path+".guard", d.GuardOf())
	v.health(path+".health", d.Health)
	v.command(path+".drain", d.Drain)
	v.command(path+".undrain", d.Undrain)
}

func (v *validation) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.add(path, "%s must be one of %s", quote(value), strings.Join(allowed, ", "))
	}
}

// The values of [Deploy.BuildOn] that are no host's name.
const (
	BuildOnOperator = "operator"
	BuildOnTarget   = "target"
)

// buildOn follows each host's builder. A circle would make every host in it wait for the others.
func (v *validation) buildOn(hosts map[string]Host) {
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		path := join("hosts", name) + ".deploy.buildOn"
		builder := hosts[name].Deploy.BuildOn
		switch _, known := hosts[builder]; {
		case builder == BuildOnOperator || builder == BuildOnTarget:
		case builder == name:
			v.add(path, "a host that builds its own system says %q", BuildOnTarget)
		case !known:
			v.add(path, "%s must be %q, %q or another host of the fleet%s", quote(builder), BuildOnOperator, BuildOnTarget,
				didYouMean(builder, slices.Sorted(maps.Keys(hosts)), ""))
		default:
			if circle := buildCircle(hosts, name); circle != nil && circle[0] == name {
				v.add(path, "the hosts build for each other in a circle: %s", strings.Join(append(circle, name), " → "))
			}
		}
	}
}

// relays checks each host's relay. A relay that has one itself would have to wait for it.
func (v *validation) relays(hosts map[string]Host) {
	known := slices.Sorted(maps.Keys(hosts))
	for name, h := range hosts {
		if h.Deploy.Relay == nil {
			continue
		}
		path, relay := join("hosts", name)+".deploy.relay", *h.Deploy.Relay
		v.otherHost(path, name, relay, known)
		if of := hosts[relay].Deploy.Relay; of != nil && relay != name {
			v.add(path, "%s has a relay itself, %s; a relay is sent its paths directly", quote(relay), quote(*of))
		}
	}
}

// buildCircle returns the hosts of the circle that contains start, beginning with its first name in
// order, so that a circle is reported once; nil where there is none.
func buildCircle(hosts map[string]Host, start string) []string {
	seen := []string{start}
	for at := hosts[start].Deploy.BuildOn; ; at = hosts[at].Deploy.BuildOn {
		if _, ok := hosts[at]; !ok || len(seen) > len(hosts) {
			return nil
		}
		if at == start {
			if slices.Min(seen) != start {
				return nil
			}
			return seen
		}
		if slices.Contains(seen, at) {
			return nil
		}
		seen = append(seen, at)
	}
}

func (v *validation) record(path string, r Record) {
	if r.Specs != nil {
		for name, secret := range r.Specs.Secrets {
			v.secret(join(path+".specs.secrets", name), name, secret)
		}
		v.checkAll(path+".specs.missing", r.Specs.Missing, checkSecretID)
		v.health(path+".specs.health", r.Specs.Health)
	}
	if r.System == nil {
		return
	}
	path += ".system"
	v.check(path+".toplevel", r.System.OutPath, checkStorePath)
	if r.System.DrvPath != "" {
		v.check(path+".drvPath", r.System.DrvPath, checkDrvPath)
	}
	v.checkAll(path+".specialisations", r.System.Specialisations, checkName)
}
