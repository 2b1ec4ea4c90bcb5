// Package check proves what can be proved of a fleet's secrets without any private key: that the state has what is declared, for the owners
// that are declared and nobody else, and nothing that must not be in it. It is what `nix flake check` runs, in a sandbox without network, home and git.
//
// It cannot prove that a copy really opens, that all owners have the same value, or that commitments are true: hosts prove that. It looks for
// private keys by their marks and not by randomness, which public keys have as well.
package check

import (
	"cmp"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// Finding is one thing that is wrong, and what mends it.
type Finding struct {
	// ID is zero where the finding is about no single secret.
	ID secret.ID
	// Host is the host, or the hosts, that it is about; empty where it is about none.
	Host   string
	Reason string
	// Mend is the command, or the setting, that mends it.
	Mend string
	// Warning says that nothing is wrong yet.
	Warning bool
}

// Input is what is held against each other.
type Input struct {
	// Plan has the shared secrets, the hosts, and the records whose specs have the hosts' own secrets.
	Plan *plan.Plan
	Tree *state.Tree
	// Pins are the pinned keys in the state as "type base64", by host; those of the plan are in the plan.
	Pins map[string][]string
	// PinErrors are hosts whose pins cannot be read.
	PinErrors map[string]error
	// Files is the fleet's state, fleet-state/<fleet>, for what no file there may hold; nil leaves that out.
	Files fs.FS
	// Now is the time that expiry is judged at. Where it is zero, it is not judged, and a warning says so.
	Now time.Time
}

// The remedies that fit most findings.
const (
	mendSync   = "fleet secrets sync"
	mendPrune  = "fleet secrets prune"
	mendAccept = "fleet secrets host-key accept "
	mendScan   = "fleet secrets host-key scan "
)

// Run returns all findings, sorted: errors first, then by secret and host.
func Run(in Input) []Finding {
	c := &checking{Input: in, recipients: map[string][]seal.Recipient{}, hosts: map[string]decide.Host{}, sealed: map[string]place{}}
	c.checkPins()
	declared := c.declarations()
	c.all = declared
	c.checkDependencies(declared)
	for _, id := range slices.SortedFunc(maps.Keys(in.Tree.Secrets), byID) {
		c.entry(id, declared[id])
	}
	for _, id := range slices.SortedFunc(maps.Keys(declared), byID) {
		c.declared(id, declared[id])
	}
	for _, stray := range in.Tree.Strays {
		c.warn(Finding{Reason: stray + " in the state is no secret", Mend: "remove it"})
	}
	c.checkTime()
	c.checkFiles()
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Or(boolInt(a.Warning)-boolInt(b.Warning), byID(a.ID, b.ID), strings.Compare(a.Host, b.Host))
	})
	return slices.CompactFunc(c.findings, func(a, b Finding) bool { return a == b })
}

func byID(a, b secret.ID) int { return strings.Compare(a.String(), b.String()) }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// checking is one run.
type checking struct {
	Input
	findings []Finding
	// recipients are the keys of each host that something can be encrypted to, the one that is used first.
	recipients map[string][]seal.Recipient
	// hosts are the keys as decisions see them.
	hosts map[string]decide.Host
	// all are the declared secrets.
	all map[secret.ID]*declaration
	// sealed is where each ciphertext was seen first.
	sealed map[string]place
}

// place is where an encrypted part is.
type place struct {
	id         secret.ID
	host, part string
}

func (c *checking) fail(f Finding) { c.findings = append(c.findings, f) }

func (c *checking) warn(f Finding) {
	f.Warning = true
	c.findings = append(c.findings, f)
}

// declaration is a secret as it is declared.
type declaration struct {
	spec   plan.Secret
	owners []string
}

// another is the command that makes another value of a secret, however it is declared; d may be nil.
func (d *declaration) another(id secret.ID) string {
	if d != nil && d.spec.Generator == nil {
		return "fleet secrets set " + id.String()
	}
	return "fleet secrets regenerate " + id.String()
}

// declarations gathers the declared secrets.
func (c *checking) declarations() map[secret.ID]*declaration {
	all := map[secret.ID]*declaration{}
	for name, spec := range c.Plan.SharedSecrets {
		all[secret.ID{Scope: secret.Shared, Name: name}] = &declaration{spec, spec.Owners}
	}
	var unjudged []string
	for _, host := range slices.Sorted(maps.Keys(c.Plan.Hosts)) {
		specs := c.Plan.Records[host].Specs
		if specs == nil {
			unjudged = append(unjudged, host)
			continue
		}
		for name, spec := range specs.Secrets {
			all[secret.ID{Scope: secret.OfHost(host), Name: name}] = &declaration{spec, []string{host}}
		}
	}
	if len(unjudged) > 0 {
		c.warn(Finding{Host: list(unjudged), Reason: "the secrets that these hosts declare themselves were not checked, the plan does not have them", Mend: "fleet secrets status"})
	}
	return all
}

// list is names for a sentence; of many, the first ones.
func list(names []string) string {
	const shown = 4
	if len(names) > shown {
		return strings.Join(names[:shown], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}

// checkTime says once that expiry was not judged, where anything expires.
func (c *checking) checkTime() {
	if !c.Now.IsZero() {
		return
	}
	for _, e := range c.Tree.Secrets {
		if e.Meta.ExpiresAt != nil {
			c.warn(Finding{Reason: "whether secrets have expired was not judged: there is no clock here", Mend: "fleet secrets status"})
			return
		}
	}
}
