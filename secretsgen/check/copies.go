package check

import (
	"fmt"
	"maps"
	"slices"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// copies holds the owners' files against the declared owners and their keys.
func (c *checking) copies(e *state.Entry, d *declaration) {
	if unusable(e) || len(d.owners) == 0 {
		return // that is said of the secret as a whole
	}
	broken := map[string]bool{}
	for _, fault := range e.Faults() {
		broken[fault.Owner] = true
	}
	for _, host := range slices.Sorted(slices.Values(d.owners)) {
		if _, has := e.Owners[host]; !has && !broken[host] && c.hosts[host].Key != "" {
			c.fail(Finding{ID: e.ID, Host: host, Reason: "the host is an owner, and has no copy", Mend: mendSync})
		}
	}
	for _, host := range slices.Sorted(maps.Keys(e.Owners)) {
		c.copied(e, d, host)
	}
}

// copied looks at one owner's file.
func (c *checking) copied(e *state.Entry, d *declaration, host string) {
	copied := e.Owners[host]
	switch {
	case !slices.Contains(d.owners, host):
		c.fail(Finding{ID: e.ID, Host: host, Reason: "the host is no owner, and has a copy", Mend: mendSync})
	case copied.Gen != e.Meta.Gen:
		c.fail(Finding{ID: e.ID, Host: host, Reason: fmt.Sprintf("its copy is of generation %s, and meta.json is of %s", copied.Gen, e.Meta.Gen),
			Mend: fmt.Sprintf("%s; where no owner has a copy of that: git checkout the folder as it was, or %s", mendSync, d.another(e.ID))})
	}
	i := slices.IndexFunc(c.recipients[host], func(r seal.Recipient) bool { return r.Fingerprint == copied.Key })
	pinned := len(c.recipients[host]) > 0
	if pinned && i < 0 {
		c.fail(Finding{ID: e.ID, Host: host, Reason: fmt.Sprintf("its copy is encrypted to the key %s, and %s is pinned", copied.Key, c.recipients[host][0].Fingerprint), Mend: mendSync})
	}
	for _, part := range slices.Sorted(maps.Keys(copied.Parts)) {
		sealed := copied.Parts[part]
		at := place{e.ID, host, part}
		header, err := seal.Inspect(sealed.Armor)
		switch {
		case err != nil:
			c.fail(Finding{ID: e.ID, Host: host, Reason: fmt.Sprintf("its part %q is no sealed file, or was cut: %v", part, err),
				Mend: fmt.Sprintf("where it is plaintext, it is known now: %s; else: %s", d.another(e.ID), mendSync)})
			continue
		case i >= 0 && !header.IsFor(c.recipients[host][i]):
			c.foreign(at, header)
		case len(header.Stanzas) != 1:
			c.foreign(at, header)
		}
		c.unique(at, sealed)
	}
}

// foreign is for a file that somebody else can open.
func (c *checking) foreign(at place, header seal.Header) {
	c.fail(Finding{ID: at.id, Host: at.host, Reason: fmt.Sprintf("its part %q is not encrypted to the host's pinned key alone: %s", at.part, readers(header)),
		Mend: "find out in git's history who wrote it; then " + c.all[at.id].another(at.id)})
}

func readers(header seal.Header) string {
	if len(header.Stanzas) != 1 {
		return fmt.Sprintf("it has %d readers", len(header.Stanzas))
	}
	return fmt.Sprintf("its reader is another key, of type %.40q", header.Stanzas[0].Type)
}

// unique refuses a ciphertext that was seen already: encrypting never gives the same twice, so one of the two was copied.
func (c *checking) unique(at place, sealed secret.SealedPart) {
	first, seen := c.sealed[sealed.SHA256]
	if !seen {
		c.sealed[sealed.SHA256] = at
		return
	}
	c.fail(Finding{ID: at.id, Host: at.host, Reason: fmt.Sprintf("its part %q is the same file as part %q of %s for host %s, so it was copied", at.part, first.part, first.id, first.host),
		Mend: "git checkout the folder as it was, or " + c.all[at.id].another(at.id)})
}
