package decide

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// one is a secret while it is decided about.
type one struct {
	Input
	owners []string
	// broken is what keeps the entry as a whole from being used.
	broken *state.BrokenError
	// copies are the hosts that the state has a file for, broken ones included.
	copies map[string]copied
	// why are the reasons, in the order of the rules.
	why []string
	d   Decision
}

// copied is what an owner's file is good for.
type copied int

const (
	// useless: damaged, or of another generation.
	useless copied = iota
	// otherKey: whole, but encrypted to a key that is not pinned for the host.
	otherKey
	// unpinned: whole, and the host has no pinned key.
	unpinned
	// usable: the host can open it.
	usable
)

func newCase(in Input) *one {
	c := &one{Input: in, copies: map[string]copied{}}
	c.owners = slices.Compact(slices.Sorted(slices.Values(in.Owners)))
	if host, ok := in.ID.Scope.Host(); ok {
		c.owners = []string{host}
	}
	if in.Entry == nil {
		return c
	}
	damaged := map[string]bool{}
	for _, fault := range in.Entry.Faults() {
		switch {
		case fault.Stray():
			c.notice("%s does not belong into the state; remove it", fault.Path)
		case fault.Owner == "" || fault.Conflict():
			if c.broken == nil || fault.Conflict() && !c.broken.Conflict() {
				c.broken = fault
			}
		default:
			damaged[fault.Owner] = true
			c.copies[fault.Owner] = useless
		}
	}
	for host, owner := range in.Entry.Owners {
		c.copies[host] = c.judge(host, owner)
		if damaged[host] {
			c.copies[host] = useless
		}
	}
	return c
}

func (c *one) judge(host string, owner secret.Owner) copied {
	pinned := c.Hosts[host]
	switch {
	case owner.Gen != c.Entry.Meta.Gen:
		return useless
	case pinned.Key == "":
		return unpinned
	case owner.Key != pinned.Key && !slices.Contains(pinned.Others, owner.Key):
		return otherKey
	}
	return usable
}

func (c *one) rule(r Rule, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.d.Rules = append(c.d.Rules, r)
	c.d.Reasons = append(c.d.Reasons, Reason{r, text})
	c.why = append(c.why, text)
}

func (c *one) notice(format string, args ...any) {
	c.d.Notices = append(c.d.Notices, fmt.Sprintf(format, args...))
}

// human adds to what a person has to do, beginning with a command.
func (c *one) human(command, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if c.d.NeedsHuman != "" {
		text = c.d.NeedsHuman + "; " + text
	} else {
		c.d.Command = command
	}
	c.d.NeedsHuman = text
}

func (c *one) done() Decision {
	slices.Sort(c.d.Rules)
	c.d.Rules = slices.Compact(c.d.Rules)
	if len(c.d.Rules) == 0 {
		c.d.Rules = []Rule{RuleUnchanged}
	}
	if len(c.d.Pending) > 0 {
		c.why = append(c.why, "waits for a host key of "+list(c.d.Pending))
	}
	if len(c.why) == 0 {
		c.why = append(c.why, "up to date")
	}
	c.d.Why = strings.Join(c.why, "; ")
	return c.d
}

// list is names for a sentence; of many, the first ones.
func list(names []string) string {
	const shown = 4
	if len(names) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return strings.Join(names, ", ")
}

// byPerson says whether a person gives the value.
func (c *one) byPerson() bool { return c.Spec.Generator == nil }

// ownersThat are the declared owners for which test is true.
func (c *one) ownersThat(test func(host string) bool) []string {
	var hosts []string
	for _, host := range c.owners {
		if test(host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// copiesThat are the hosts whose copies are what was asked for, sorted, declared owners first.
func (c *one) copiesThat(test func(host string, state copied) bool) []string {
	var hosts []string
	for _, host := range slices.Sorted(maps.Keys(c.copies)) {
		if test(host, c.copies[host]) {
			hosts = append(hosts, host)
		}
	}
	slices.SortStableFunc(hosts, func(a, b string) int {
		return boolInt(!slices.Contains(c.owners, a)) - boolInt(!slices.Contains(c.owners, b))
	})
	return hosts
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (c *one) undeclared() {
	if c.Entry == nil {
		return
	}
	c.d.Prune = true
	c.rule(RuleUndeclared, "nothing declares it any more")
	c.notice("the state has it, and nothing declares it: fleet secrets prune removes it")
}

// ownerless keeps what there is: without owners nobody could ever read it again.
func (c *one) ownerless() {
	if c.Entry == nil {
		c.notice("no host owns it, so no value is made")
		return
	}
	c.d.Prune = true
	c.rule(RuleRemoved, "no host owns it any more")
	prune := "fleet secrets prune " + c.ID.String()
	c.human(prune, "no host owns %s any more: declare an owner; or take its declaration away, then: %s", c.ID, prune)
}

func (c *one) brokenState() {
	if c.ForceRegenerate && !c.byPerson() {
		c.renew(RuleForced, "its files in the state are broken, and a new value was asked for")
		return
	}
	c.rule(RuleMissing, "its files in the state are broken")
	c.human(c.broken.Hint(), "%v: %s", c.broken, c.broken.Hint())
}

func (c *one) missing() {
	if c.byPerson() {
		c.rule(RuleMissing, "it has no value")
		c.human(c.another(), "%s has no value, and no generator makes one: %s", c.ID, c.another())
		c.d.Pending = c.ownersThat(func(host string) bool { return c.Hosts[host].Key == "" })
		return
	}
	c.renew(RuleMissing, "it has no value yet")
}

// renew asks for a new value, for the owners that have a key. Without any it waits for one: nobody could read it.
func (c *one) renew(rule Rule, format string, args ...any) {
	c.rule(rule, format, args...)
	c.d.Pending = c.ownersThat(func(host string) bool { return c.Hosts[host].Key == "" })
	wrap := c.ownersThat(func(host string) bool { return c.Hosts[host].Key != "" })
	if len(wrap) == 0 {
		return
	}
	c.d.Regenerate, c.d.Wrap, c.d.Sources, c.d.Remove = true, wrap, nil, nil
	c.d.Waits = c.withoutValue()
	c.why[len(c.why)-1] = "new value: " + c.why[len(c.why)-1]
}

// withoutValue are the dependencies that have to be made first.
func (c *one) withoutValue() []string {
	var ids []string
	for _, id := range c.Spec.Generator.Dependencies {
		if _, ok := c.Deps[id]; !ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
