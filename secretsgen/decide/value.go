package decide

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"fleet/secretsgen/secret"
)

// present decides about a secret that has a value.
func (c *one) present() {
	if c.newValue() {
		return
	}
	c.changeCopies()
}

// newValue applies the rules that ask for a new value; true where one is made. What a person has to give is said, and the value is kept.
func (c *one) newValue() bool {
	for _, rule := range [...]func() (Rule, string){c.forced, c.parts, c.expired, c.data, c.dependency, c.ownersChanged, c.seed} {
		r, why := rule()
		if r == 0 {
			continue
		}
		if !c.byPerson() {
			c.renew(r, "%s", why)
			return c.d.Regenerate
		}
		c.rule(r, "%s", why)
		command, remedy := c.remedy(r)
		c.human(command, "%s: %s", why, remedy)
		return false
	}
	return false
}

// remedy is the command for a value that a person gives, and the same in words.
func (c *one) remedy(r Rule) (command, text string) {
	set := fmt.Sprintf("fleet secrets set %s", c.ID)
	switch r {
	case RuleData:
		accept := fmt.Sprintf("fleet secrets accept %s", c.ID)
		return accept, fmt.Sprintf("%s keeps the value, %s gives another", accept, set)
	case RuleOwners:
		return set, fmt.Sprintf("change the value where it is used, and give it with %s", set)
	}
	return set, set
}

func (c *one) forced() (Rule, string) {
	if c.ForceRegenerate {
		return RuleForced, "it was asked for"
	}
	return 0, ""
}

func (c *one) parts() (Rule, string) {
	has := c.Entry.Meta.Parts
	if c.Spec.Parts == nil {
		return 0, ""
	}
	for _, part := range slices.Sorted(maps.Keys(has)) {
		if _, ok := c.Spec.Parts[part]; !ok {
			c.notice("the value has a part %q that is not declared any more; the next value will not have it", part)
		}
	}
	for _, part := range slices.Sorted(maps.Keys(c.Spec.Parts)) {
		got, ok := has[part]
		switch want := c.Spec.Parts[part]; {
		case !ok:
			return RuleMissing, fmt.Sprintf("its part %q is missing", part)
		case want.Encrypted && !got.Encrypted:
			return RuleMissing, fmt.Sprintf("its part %q is public, and is declared as encrypted", part)
		case !want.Encrypted && got.Encrypted:
			return RuleMissing, fmt.Sprintf("its part %q is encrypted, and is declared as public", part)
		}
	}
	return 0, ""
}

func (c *one) expired() (Rule, string) {
	at := c.Entry.Meta.ExpiresAt
	if at == nil || c.Now.IsZero() || at.After(c.Now) {
		return 0, ""
	}
	return RuleExpired, "it expired on " + at.UTC().Format(time.DateTime) + " UTC"
}

// set says whether a person gave a value that a generator could have made. What the generator is called with is then no reason to replace it.
func (c *one) set() bool { return !c.byPerson() && c.Entry.Meta.Origin == secret.Set }

func (c *one) data() (Rule, string) {
	old, now := canonical(c.Entry.Meta.GenerationData), json.RawMessage(nil)
	if !c.byPerson() {
		now = canonical(c.Spec.Generator.Data)
	}
	switch {
	case bytes.Equal(old, now):
		return 0, ""
	case c.byPerson():
		return RuleData, "its generator is gone"
	case c.set():
		c.notice("its generator is called with other arguments%s; the value was set by a person and stays: fleet secrets regenerate %s makes a new one", changedKeys(old, now), c.ID)
		return 0, ""
	}
	return RuleData, "its generator is called with other arguments" + changedKeys(old, now)
}

// canonical is data that can be compared. What is no JSON is compared as it is.
func canonical(data json.RawMessage) json.RawMessage {
	if out, err := secret.CanonicalJSON(data); err == nil {
		return out
	}
	return data
}

// changedKeys names the arguments that differ, where both are sets.
func changedKeys(old, now json.RawMessage) string {
	var a, b map[string]json.RawMessage
	if json.Unmarshal(old, &a) != nil || json.Unmarshal(now, &b) != nil {
		return ""
	}
	var keys []string
	for key, value := range b {
		if before, ok := a[key]; !ok || !bytes.Equal(before, value) {
			keys = append(keys, key)
		}
	}
	for key := range a {
		if _, ok := b[key]; !ok {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return ""
	}
	slices.Sort(keys)
	return fmt.Sprintf(" (%.120s)", list(keys))
}

func (c *one) dependency() (Rule, string) {
	if c.byPerson() || c.set() || c.Spec.OnDependencyChange == "keep" {
		return 0, ""
	}
	for _, id := range slices.Sorted(maps.Values(c.Spec.Generator.Dependencies)) {
		current, ok := c.Deps[id]
		made, known := c.Entry.Meta.Deps[id]
		switch {
		case !ok:
			return RuleDependency, fmt.Sprintf("%s, which it is made from, has no value", id)
		case !known:
			return RuleDependency, fmt.Sprintf("it is made from %s now", id)
		case current != made:
			return RuleDependency, fmt.Sprintf("%s, which it was made from, has another value", id)
		}
	}
	return 0, ""
}

// ownersChanged looks at added owners that have a key, so that a keyless one does not ask for a new value again and again.
func (c *one) ownersChanged() (Rule, string) {
	added, removed := c.added(), c.removed()
	addedAsks := c.Spec.RegenerateOnOwnerAdded && len(added) > 0
	removedAsks := c.Spec.RegenerateOnOwnerRemoved && len(removed) > 0
	switch {
	case addedAsks && removedAsks:
		return RuleOwners, fmt.Sprintf("owners were added (%s) and removed (%s)", list(added), list(removed))
	case addedAsks:
		return RuleOwners, fmt.Sprintf("owners were added (%s)", list(added))
	case removedAsks:
		return RuleOwners, fmt.Sprintf("owners were removed (%s)", list(removed))
	}
	return 0, ""
}

func (c *one) seed() (Rule, string) {
	if c.byPerson() {
		if c.Entry.Meta.Seed != "" {
			c.notice("its generator is gone; the value is kept, and is a person's to renew")
		}
		return 0, ""
	}
	now := ""
	if c.Spec.Generator.Seed != nil {
		now = *c.Spec.Generator.Seed
	}
	switch {
	case now == c.Entry.Meta.Seed:
		return 0, ""
	case c.Spec.OnGeneratorChange == "regenerate" && !c.set():
		return RuleSeed, "the script of its generator changed"
	}
	c.rule(RuleSeed, "the script of its generator changed, the value is kept")
	c.notice("the script of its generator changed; the value is kept: fleet secrets regenerate %s makes a new one, fleet secrets accept %s keeps it", c.ID, c.ID)
	return 0, ""
}
