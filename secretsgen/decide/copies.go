package decide

import (
	"slices"
)

// added are declared owners without a copy that could get one.
func (c *one) added() []string {
	return c.ownersThat(func(host string) bool {
		_, has := c.copies[host]
		return !has && c.Hosts[host].Key != ""
	})
}

// removed are hosts with a copy that are no owners.
func (c *one) removed() []string {
	return c.copiesThat(func(host string, _ copied) bool { return !slices.Contains(c.owners, host) })
}

// changeCopies applies the rules that keep the value.
func (c *one) changeCopies() {
	added, removed := c.added(), c.removed()
	if c.byPerson() && slices.Contains(c.d.Rules, RuleOwners) {
		// The new value that was asked for goes to the new owners; until then all stays, so that it goes on being asked for.
		if c.Spec.RegenerateOnOwnerAdded {
			added = nil
		}
		if c.Spec.RegenerateOnOwnerRemoved {
			removed = nil
		}
	}
	changed := c.ownersThat(func(host string) bool { return c.is(host, otherKey) })
	bad := c.ownersThat(func(host string) bool { return c.is(host, useless) && c.Hosts[host].Key != "" })
	c.pending()
	c.wrap(added, changed, bad)
	if !c.d.Regenerate {
		c.remove(removed)
	}
}

func (c *one) is(host string, state copied) bool {
	got, ok := c.copies[host]
	return ok && got == state
}

// pending are owners without a key and without a copy that they could use.
func (c *one) pending() {
	c.d.Pending = c.ownersThat(func(host string) bool {
		return c.Hosts[host].Key == "" && !c.is(host, unpinned)
	})
	if kept := c.ownersThat(func(host string) bool { return c.is(host, unpinned) }); len(kept) > 0 {
		c.notice("no key is pinned for %s; what is encrypted for it stays as it is", list(kept))
	}
}

// wrap asks for copies, or says why none can be made.
func (c *one) wrap(added, changed, bad []string) {
	wrap := slices.Concat(added, changed, bad)
	if len(wrap) == 0 {
		return
	}
	slices.Sort(wrap)
	sources := c.copiesThat(func(_ string, state copied) bool { return state == usable })
	public := len(c.Entry.Meta.Encrypted()) == 0
	if len(sources) == 0 && !public {
		c.unreadable(added, changed, bad)
		return
	}
	c.sayWhy(added, changed, bad)
	c.d.Wrap = wrap
	if !public {
		c.d.Sources = sources
	}
}

func (c *one) sayWhy(added, changed, bad []string) {
	if len(added) > 0 {
		c.rule(RuleAdded, "new copy for %s: a new owner", list(added))
	}
	if len(changed) > 0 {
		c.rule(RuleKey, "new copy for %s: it has another key now", list(changed))
	}
	if len(bad) > 0 {
		c.rule(RuleKey, "new copy for %s: its copy is damaged or of another generation", list(bad))
	}
}

// unreadable is for copies that no host could make.
func (c *one) unreadable(added, changed, bad []string) {
	out := c.copiesThat(func(_ string, state copied) bool { return state == unpinned })
	switch {
	case len(out) > 0:
		c.sayNone(added, changed, bad)
		scan := "fleet secrets host-key scan " + out[0]
		c.human(scan, "only %s can open %s, and no key is pinned for it: %s; or make a new value: %s", list(out), c.ID, scan, c.another())
	case len(changed) > 0 || len(c.copiesThat(func(_ string, state copied) bool { return state == otherKey })) > 0:
		// The key that could open it is gone, and that was accepted by a person.
		if c.byPerson() {
			c.sayNone(added, changed, bad)
			c.human(c.another(), "no host can open %s any more, its owners have other keys: enter it again with %s", c.ID, c.another())
			return
		}
		c.renew(RuleKey, "no host can open the old one any more, its owners have other keys")
	default:
		c.sayNone(added, changed, bad)
		c.human(c.another(), "no host can open %s, its files are damaged, of other generations or gone: restore %s from git, or make a new value: %s", c.ID, c.ID, c.another())
	}
}

// another is the command for another value.
func (c *one) another() string {
	if c.byPerson() {
		return "fleet secrets set " + c.ID.String()
	}
	return "fleet secrets regenerate " + c.ID.String()
}

func (c *one) sayNone(added, changed, bad []string) {
	if len(added) > 0 {
		c.rule(RuleAdded, "no host can make a copy for %s", list(added))
	}
	if missing := slices.Concat(changed, bad); len(missing) > 0 {
		slices.Sort(missing)
		c.rule(RuleKey, "no host can make a copy for %s", list(missing))
	}
}

// remove drops the copies of former owners, where another one that can be opened stays or is made.
func (c *one) remove(removed []string) {
	if len(removed) == 0 {
		return
	}
	stays := len(c.d.Wrap) > 0 || len(c.ownersThat(func(host string) bool { return c.is(host, usable) || c.is(host, unpinned) })) > 0
	if !stays {
		c.rule(RuleRemoved, "the copy of %s stays, there is no other that can be opened", list(removed))
		return
	}
	c.rule(RuleRemoved, "remove the copy of %s: no owner any more", list(removed))
	c.d.Remove = removed
	c.notice("%s knows the value, which stays the same, and can read it in git's history: fleet secrets regenerate %s makes a new one", list(removed), c.ID)
}
