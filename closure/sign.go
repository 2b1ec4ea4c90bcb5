package closure

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// SigningKey is a secret key that signs paths, as nix-store --generate-binary-cache-key makes it. Printing it, in any
// way, shows its name only.
type SigningKey struct {
	name string
	key  ed25519.PrivateKey
}

// PublicKey verifies what a [SigningKey] has signed. It is what trusted-public-keys in nix.conf lists.
type PublicKey struct {
	name string
	key  ed25519.PublicKey
}

// ParseSigningKey reads "name:base64"; white space around it is ignored. No error contains the key.
func ParseSigningKey(text string) (*SigningKey, error) {
	name, data, err := splitKey(text, ed25519.PrivateKeySize)
	if err != nil {
		return nil, fmt.Errorf("parse signing key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(data[:ed25519.SeedSize])
	if !key.Equal(ed25519.PrivateKey(data)) {
		return nil, fmt.Errorf("parse signing key: the two halves of key %q do not belong together", name)
	}
	return &SigningKey{name: name, key: key}, nil
}

// ParsePublicKey reads "name:base64".
func ParsePublicKey(text string) (*PublicKey, error) {
	name, data, err := splitKey(text, ed25519.PublicKeySize)
	if err != nil {
		return nil, fmt.Errorf("parse public key: %w", err)
	}
	return &PublicKey{name: name, key: data}, nil
}

func splitKey(text string, size int) (name string, data []byte, err error) {
	name, encoded, found := strings.Cut(strings.TrimSpace(text), ":")
	if !found || name == "" || strings.ContainsAny(name, " \t\n") {
		return "", nil, errors.New("it is not name:base64")
	}
	data, err = base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return "", nil, fmt.Errorf("what follows the name %q is not base64", name)
	}
	if len(data) != size {
		return "", nil, fmt.Errorf("key %q has %d bytes, not %d", name, len(data), size)
	}
	return name, data, nil
}

// Name is the key's name.
func (k *SigningKey) Name() string { return k.name }

// Sign returns a signature of the path's fingerprint, "name:base64", for [PathInfo].Signatures.
func (k *SigningKey) Sign(info PathInfo) string {
	info.References = sortedUnique(info.References)
	signature := ed25519.Sign(k.key, []byte(info.Fingerprint()))
	return k.name + ":" + base64.StdEncoding.EncodeToString(signature)
}

// PublicKey returns the key's public half.
func (k *SigningKey) PublicKey() *PublicKey {
	return &PublicKey{name: k.name, key: ed25519.PublicKey(k.key[ed25519.SeedSize:])}
}

// String returns "name:base64".
func (k *PublicKey) String() string { return k.name + ":" + base64.StdEncoding.EncodeToString(k.key) }

// Verify says whether signature is this key's for the path.
func (k *PublicKey) Verify(info PathInfo, signature string) bool {
	name, encoded, _ := strings.Cut(signature, ":")
	data, err := base64.StdEncoding.DecodeString(encoded)
	info.References = sortedUnique(info.References)
	return err == nil && name == k.name && ed25519.Verify(k.key, []byte(info.Fingerprint()), data)
}

// String hides the key.
func (k *SigningKey) String() string { return "signing key " + k.name + " [redacted]" }

// Format hides the key from all verbs.
func (k *SigningKey) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, k.String()) }

// MarshalText hides the key.
func (k *SigningKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
