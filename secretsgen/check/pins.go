package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"fleet/secretsgen/decide"
	"fleet/secretsgen/seal"
)

// checkPins looks at every host's pinned keys: those of the plan and those of the state have to agree, and no two hosts have the same.
func (c *checking) checkPins() {
	owners := map[string][]string{} // hosts by key
	for _, host := range slices.Sorted(maps.Keys(c.Plan.Hosts)) {
		if err := c.PinErrors[host]; err != nil {
			c.fail(Finding{Host: host, Reason: fmt.Sprintf("its pinned keys cannot be read: %v", err), Mend: fmt.Sprintf("git checkout HEAD -- '*hosts/%s.json', or remove the file, and: %s%s", host, mendScan, host)})
		}
		keys := c.keysOf(host)
		for _, key := range keys {
			owners[key] = append(owners[key], host)
		}
		c.choose(host, keys)
	}
	for _, key := range slices.Sorted(maps.Keys(owners)) {
		hosts := owners[key]
		for _, host := range hosts {
			if others := slices.DeleteFunc(slices.Clone(hosts), func(other string) bool { return other == host }); len(others) > 0 {
				c.fail(Finding{
					Host:   host,
					Reason: fmt.Sprintf("its key %s is pinned for %s, too: each of them reads what is for the other, as machines cloned from one image do", fingerprint(key), list(others)),
					Mend:   fmt.Sprintf("give one of them keys of its own (ssh-keygen -A, after removing the old ones), then: %s%s", mendAccept, host),
				})
			}
		}
	}
}

// keysOf are a host's pinned keys as "type base64", those of the plan first.
func (c *checking) keysOf(host string) []string {
	var keys []string
	byType := map[string]string{}
	for _, key := range c.Plan.Hosts[host].Deploy.HostKeys {
		if key = bare(key); key != "" && !slices.Contains(keys, key) {
			keys = append(keys, key)
			byType[keyType(key)] = key
		}
	}
	for _, key := range c.Pins[host] {
		key = bare(key)
		if key == "" || slices.Contains(keys, key) {
			continue
		}
		if declared, ok := byType[keyType(key)]; ok {
			c.fail(Finding{
				Host:   host,
				Reason: fmt.Sprintf("its deploy.hostKeys has %s, and its pin in the state %s: which of the two is the host's?", fingerprint(declared), fingerprint(key)),
				Mend:   fmt.Sprintf("ask the host (%s%s), and correct hosts.%s.deploy.hostKeys or the pin", mendScan, host, host),
			})
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// bare is a key without its comment; empty where it is none.
func bare(key string) string {
	words := strings.Fields(key)
	if len(words) < 2 {
		return ""
	}
	return words[0] + " " + words[1]
}

func keyType(key string) string { return strings.Fields(key)[0] }

// fingerprint is a key's, for a sentence. Keys of other types than secrets are encrypted to are named by their type.
func fingerprint(key string) string {
	if r, err := seal.ParseRecipient(key); err == nil {
		return r.Fingerprint
	}
	return "of type " + keyType(key)
}

// choose finds the keys that a host's secrets may be encrypted to.
func (c *checking) choose(host string, keys []string) {
	chosen, err := seal.Choose(keys)
	if err != nil {
		if len(keys) > 0 {
			c.warn(Finding{Host: host, Reason: fmt.Sprintf("secrets can be encrypted to none of its pinned keys, they have to be ssh-ed25519 or ssh-rsa: %v", err), Mend: mendScan + host})
		}
		c.hosts[host] = decide.Host{}
		return
	}
	known := decide.Host{Key: chosen.Fingerprint}
	c.recipients[host] = []seal.Recipient{chosen}
	for _, key := range keys {
		if r, err := seal.ParseRecipient(key); err == nil && r.Fingerprint != chosen.Fingerprint {
			known.Others = append(known.Others, r.Fingerprint)
			c.recipients[host] = append(c.recipients[host], r)
		}
	}
	c.hosts[host] = known
}
