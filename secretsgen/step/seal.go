package step

import (
	"fmt"
	"maps"
	"slices"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// recipients parses the owners' keys.
func (r Request) recipients() (map[string]seal.Recipient, error) {
	to := make(map[string]seal.Recipient, len(r.Owners))
	for _, host := range slices.Sorted(maps.Keys(r.Owners)) {
		recipient, err := seal.ParseRecipient(r.Owners[host])
		if err != nil {
			return nil, fmt.Errorf("seal to host %q: %w", host, err)
		}
		to[host] = recipient
	}
	return to, nil
}

// result seals what was made to all owners. Every part has a salt of its own, the same for all owners; public parts have none.
func (r Request) result(m made, to map[string]seal.Recipient) (Result, error) {
	out := Result{Parts: map[string]ResultPart{}, Sealed: map[string]map[string]secret.SealedPart{}, ExpiresAt: m.expires}
	for host := range to {
		out.Sealed[host] = map[string]secret.SealedPart{}
	}
	for name, part := range m.parts {
		if !part.encrypted {
			out.Parts[name] = ResultPart{Commit: seal.Commit(r.Context(name), nil, part.value), Public: part.value.Bytes()}
			continue
		}
		salt, err := seal.NewSalt()
		if err != nil {
			return Result{}, err
		}
		out.Parts[name] = ResultPart{Encrypted: true, Commit: seal.Commit(r.Context(name), salt, part.value)}
		for host, recipient := range to {
			if out.Sealed[host][name], err = seal.Seal(r.Context(name), salt, part.value, recipient); err != nil {
				return Result{}, err
			}
		}
	}
	return out, nil
}
