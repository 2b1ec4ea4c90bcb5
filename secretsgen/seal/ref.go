package seal

import (
	"fmt"

	"filippo.io/age"

	"fleet/secretsgen/secret"
)

// Ref is an encrypted part of a value, and what it has to be. It crosses the agent's protocol as JSON.
type Ref struct {
	Fleet  string     `json:"fleet"`
	ID     secret.ID  `json:"id"`
	Part   string     `json:"part"`
	Gen    secret.Gen `json:"gen"`
	Seq    uint64     `json:"seq"`
	Armor  string     `json:"armor"`
	Commit string     `json:"commit"`
}

// Context is what the part is a part of.
func (r Ref) Context() Context {
	return Context{Fleet: r.Fleet, ID: r.ID, Part: r.Part, Gen: r.Gen, Seq: r.Seq}
}

// Open decrypts and checks the part, see [Open].
func (r Ref) Open(identities ...age.Identity) (Opened, error) {
	return Open(r.Armor, r.Context(), r.Commit, identities...)
}

// RewrapRequest asks an owner to seal values to other hosts.
type RewrapRequest struct {
	Parts []Ref `json:"parts"`
	// To are the public keys of the hosts, as "type base64".
	To map[string]string `json:"to"`
}

// RewrapResult has one entry a part of the request, in its order.
type RewrapResult struct {
	Parts []RewrappedPart `json:"parts"`
}

// RewrappedPart is one part, sealed to each of the hosts; or why not.
type RewrappedPart struct {
	Sealed map[string]secret.SealedPart `json:"sealed,omitempty"`
	Error  string                       `json:"error,omitempty"`
}

// RewrapAll seals every part of the request to every host of it. A part that cannot be opened has an Error and takes no other along; a key
// that nothing can be encrypted to is an error of the whole request.
func RewrapAll(request RewrapRequest, identities ...age.Identity) (RewrapResult, error) {
	to := make(map[string]Recipient, len(request.To))
	for host, key := range request.To {
		recipient, err := ParseRecipient(key)
		if err != nil {
			return RewrapResult{}, fmt.Errorf("seal to host %q: %w", host, err)
		}
		to[host] = recipient
	}
	result := RewrapResult{Parts: make([]RewrappedPart, len(request.Parts))}
	for i, ref := range request.Parts {
		sealed, err := ref.rewrap(to, identities)
		if err != nil {
			result.Parts[i].Error = err.Error()
			continue
		}
		result.Parts[i].Sealed = sealed
	}
	return result, nil
}

func (r Ref) rewrap(to map[string]Recipient, identities []age.Identity) (map[string]secret.SealedPart, error) {
	opened, err := r.Open(identities...)
	if err != nil {
		return nil, err
	}
	defer opened.Value.Wipe()
	sealed := make(map[string]secret.SealedPart, len(to))
	for host, recipient := range to {
		if sealed[host], err = Seal(r.Context(), opened.Salt, opened.Value, recipient); err != nil {
			return nil, err
		}
	}
	return sealed, nil
}

// VerifyAll opens every part, and returns what is wrong with each; empty texts are right. Values are wiped at once.
func VerifyAll(refs []Ref, identities ...age.Identity) []string {
	wrong := make([]string, len(refs))
	for i, ref := range refs {
		opened, err := ref.Open(identities...)
		if err != nil {
			wrong[i] = err.Error()
			continue
		}
		opened.Value.Wipe()
	}
	return wrong
}
