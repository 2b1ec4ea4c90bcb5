// Package decide says what has to be done about a secret: what the fleet declares is held against what the state has. It is pure: no
// input or output, no clock but the one that it is given; what it decides, others carry out.
package decide

import (
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// Host is what is known of a host's keys.
type Host struct {
	// Key is the fingerprint of the key that its secrets are encrypted to; empty for a host without a pinned key, which is keyless.
	Key string
	// Others are the fingerprints of its other pinned keys: it can open what is encrypted to one of them, too.
	Others []string
}

// Input is one secret as it is declared and as it is.
type Input struct {
	ID secret.ID
	// Spec is nil for a secret that nothing declares. Where a host's declarations could not be evaluated, do not ask.
	Spec *plan.Secret
	// Owners are the declared owners, tags expanded. For a host's own secret it is that host, whatever is given here.
	Owners []string
	// Entry is nil for a secret that the state does not have.
	Entry *state.Entry
	// Hosts are all hosts of the fleet.
	Hosts map[string]Host
	// Deps are the current generations of the dependencies by id; one that has no value is not there.
	Deps map[string]secret.Gen
	// Now is the time that expiry is judged at; zero leaves it unjudged.
	Now time.Time
	// ForceRegenerate asks for a new value whatever the state is.
	ForceRegenerate bool
}

// Rule is a row of the decision table.
type Rule int

// The rules. The numbers are those of the table in docs; 3 is left for renewal ahead of expiry.
const (
	// RuleMissing: there is no value, or a declared part of it is missing, or encrypted where it should be public or the other way round.
	RuleMissing Rule = 1
	// RuleExpired: the value has expired.
	RuleExpired Rule = 2
	// RuleData: the generator is called with other arguments.
	RuleData Rule = 4
	// RuleDependency: a secret that the value was made from has another value now.
	RuleDependency Rule = 5
	// RuleOwners: owners were added or removed, and the declaration asks for a new value then.
	RuleOwners Rule = 6
	// RuleAdded: owners were added.
	RuleAdded Rule = 7
	// RuleRemoved: owners were removed.
	RuleRemoved Rule = 8
	// RuleKey: an owner's copy is not one that it can use: it is encrypted to another key, of another generation, or damaged.
	RuleKey Rule = 9
	// RuleSeed: the script of a hand-written generator is another one.
	RuleSeed Rule = 10
	// RuleUndeclared: the state has it, nothing declares it.
	RuleUndeclared Rule = 11
	// RuleUnchanged: nothing is to be done.
	RuleUnchanged Rule = 12
	// RuleForced: a person asked for a new value.
	RuleForced Rule = 13
)

// Decision is what is to be done, and why.
type Decision struct {
	// Rules are those that apply, in their order; never empty.
	Rules []Rule
	// Regenerate asks for a new value, for all owners in Wrap. All copies of the old one go with it.
	Regenerate bool
	// Wrap are the owners that get a copy, sorted: of the new value where there is one, else of the present one.
	Wrap []string
	// Sources are the hosts that can open the present value, declared owners first: one of them makes the copies of Wrap. Empty with Regenerate,
	// and for a value of public parts alone, whose copies need nobody.
	Sources []string
	// Remove are the former owners whose copies go, sorted, once Wrap is done. Empty with Regenerate, which leaves no old copy.
	Remove []string
	// Prune says that `fleet secrets prune` would remove the whole secret.
	Prune bool
	// NeedsHuman says what only a person can do, with the command; empty where nothing is.
	NeedsHuman string
	// Command is the first thing that the person does, such as "fleet secrets set shared/token"; empty with NeedsHuman.
	Command string
	// Pending are the owners without a key, sorted: they get their copies once they have one.
	Pending []string
	// Waits are the ids of dependencies that have no value, sorted: they are made first.
	Waits []string
	// Notices are sentences that a person should read, where nothing is done.
	Notices []string
	// Reasons say for each rule why it applies, in the order in which they were found.
	Reasons []Reason
	// Why is the decision on one line.
	Why string
}

// Reason is why a rule applies, in words such as "it expired on 2026-11-01 12:00:00 UTC".
type Reason struct {
	Rule Rule
	Text string
}

// Changes says whether anything would be written.
func (d Decision) Changes() bool { return d.Regenerate || len(d.Wrap)+len(d.Remove) > 0 }

// Decide applies the table: the first of the rules up to [RuleOwners] that asks for a new value ends it; otherwise the rules about copies
// all apply, each to its own owners. Where a person gives the value, it is kept, and the decision says what the person has to do. No decision loses a
// value: a copy goes only where another one that can be opened stays or is made.
func Decide(in Input) Decision {
	c := newCase(in)
	switch {
	case in.Spec == nil:
		c.undeclared()
	case len(c.owners) == 0:
		c.ownerless()
	case c.broken != nil:
		c.brokenState()
	case in.Entry == nil:
		c.missing()
	default:
		c.present()
	}
	return c.done()
}
