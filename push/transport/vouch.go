package transport

import (
	"context"
	"net"

	"golang.org/x/crypto/ssh"
)

// KnownHosts looks keys up in the known_hosts files that the user's ssh would use for a host. It opens no connection. It is safe for concurrent use.
type KnownHosts struct{ native *native }

// NewKnownHosts returns a look at the user's known_hosts; of the options only Runner and ConfigFile matter.
func NewKnownHosts(options Options) *KnownHosts {
	options = options.withDefaults()
	return &KnownHosts{native: &native{options: options, resolver: options.resolver()}}
}

// Vouches says whether known_hosts has this very key ("type base64") for the target. A certificate authority vouches for no plain key, and
// a revoked key is vouched for by nobody. No file at all is false and no error.
func (k *KnownHosts) Vouches(ctx context.Context, target Target, key string) (bool, error) {
	if target.Address == "local" {
		return false, nil
	}
	parsed, err := parsePins([]string{key})
	if err != nil {
		return false, &ConfigError{Host: target.Host, Address: target.Address, Err: err}
	}
	hops, err := k.native.resolver.route(ctx, target)
	if err != nil {
		return false, err
	}
	policy, err := k.native.hostKeyPolicy(newHop(target, hops, len(hops)-1, k.native.options.Timeouts, []ssh.PublicKey{}))
	if err != nil {
		return false, err
	}
	if policy.isRevoked(parsed[0]) {
		return false, nil
	}
	return policy.known.check(policy.name, &net.TCPAddr{}, parsed[0]).provenance == ProvenanceKnownHosts, nil
}
