package plan

import (
	"fmt"
	"maps"
	"slices"
)

// Merge joins fleets into one plan called fleet. A host that two of them have, or a helper that they disagree on, is a
// fault; what refers to other hosts by name (deploy.buildOn) goes on referring to the host of that name. The
// result is validated, and all faults are returned at once as an [*InvalidError].
func Merge(fleet string, plans ...*Plan) (*Plan, error) {
	out := &Plan{
		FormatVersion: FormatVersion,
		Fleet:         fleet,
		Helpers:       map[string]Helper{},
		Hosts:         map[string]Host{},
		Records:       map[string]Record{},
	}
	v := new(validation)
	from := map[string]string{}
	for _, p := range plans {
		v.mergeHosts(out, p, from)
		for system, h := range p.Helpers {
			if have, ok := out.Helpers[system]; ok && have != h {
				v.add(join("helpers", system), "%s has another helper than the fleets before it", quote(p.Fleet))
				continue
			}
			out.Helpers[system] = h
		}
		out.Warnings = append(out.Warnings, p.Warnings...)
	}
	if err := v.err("plan"); err != nil {
		return nil, fmt.Errorf("merge fleets: %w", err)
	}
	if err := out.Validate(); err != nil {
		return nil, fmt.Errorf("merge fleets: %w", err)
	}
	if len(out.Records) == 0 {
		out.Records = nil
	}
	out.normalise()
	return out, nil
}

// mergeHosts adds the hosts of one fleet; from says which fleet each host is from.
func (v *validation) mergeHosts(out, p *Plan, from map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(p.Hosts)) {
		if other, ok := from[name]; ok {
			v.add(join("hosts", name), "both %s and %s have a host of this name", quote(other), quote(p.Fleet))
			continue
		}
		from[name] = p.Fleet
		out.Hosts[name] = p.Hosts[name]
		if r, ok := p.Records[name]; ok {
			out.Records[name] = r
		}
	}
}
