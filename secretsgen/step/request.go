// Package step runs one step of a generator in a private folder, on the operator's machine or on a host.
//
// What a generator writes never leaves the folder as it is: encrypted parts are sealed to their owners by the process that ran the
// generator, and only sealed and public parts are in the [Result]. The folder is a file system in memory, in a mount
// namespace of its own, so that it is gone with the process, however that ends.
package step

import (
	"time"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// Request asks for one run of a generator. It crosses the agent's protocol as JSON, and holds no plaintext.
type Request struct {
	// Program is the generator's executable, below /nix/store and valid on the machine that runs it.
	Program string `json:"program"`
	Fleet   string `json:"fleet"`
	// ID, Gen and Seq are those of the value that is made.
	ID  secret.ID  `json:"id"`
	Gen secret.Gen `json:"gen"`
	Seq uint64     `json:"seq"`
	// Parts are what must come out; nil where what comes out is the list.
	Parts map[string]Part `json:"parts,omitempty"`
	// Owners are the public keys, as "type base64", that encrypted parts are sealed to, by host.
	Owners map[string]string `json:"owners"`
	// Dependencies are other secrets' parts that the generator reads, by the name that it has for the secret.
	Dependencies map[string]Dependency `json:"dependencies,omitempty"`
	// Sandbox is "strict", "network" or "none".
	Sandbox string `json:"sandbox"`
	// Timeout bounds the run; zero means [DefaultTimeout].
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Part is a part that a generator declares.
type Part struct {
	Encrypted bool `json:"encrypted"`
	// Type and Pattern are those of plan.SecretPart.
	Type    string `json:"type,omitempty"`
	Pattern string `json:"pattern,omitempty"`
}

// Dependency is a value of another secret.
type Dependency struct {
	ID  secret.ID  `json:"id"`
	Gen secret.Gen `json:"gen"`
	Seq uint64     `json:"seq"`
	// Sealed are encrypted parts as the machine that runs the generator owns them, with their commitments.
	Sealed map[string]SealedInput `json:"sealed,omitempty"`
	// Public are public parts, decoded.
	Public map[string][]byte `json:"public,omitempty"`
}

// SealedInput is an encrypted part and what it has to hold.
type SealedInput struct {
	Armor  string `json:"armor"`
	Commit string `json:"commit"`
}

// Context is the context of a part of the value that is made.
func (r Request) Context(part string) seal.Context {
	return seal.Context{Fleet: r.Fleet, ID: r.ID, Part: part, Gen: r.Gen, Seq: r.Seq}
}

// Result is a new value. It holds no plaintext of encrypted parts.
type Result struct {
	// Parts are all parts, encrypted ones by their commitment alone.
	Parts map[string]ResultPart `json:"parts"`
	// Sealed are the encrypted parts by owner and part; every owner of the request is there.
	Sealed map[string]map[string]secret.SealedPart `json:"sealed"`
	// ExpiresAt is nil for a value that does not expire.
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
}

// ResultPart is one part.
type ResultPart struct {
	Encrypted bool   `json:"encrypted"`
	Commit    string `json:"commit"`
	// Public is the value of a public part.
	Public []byte `json:"public,omitempty"`
}

const (
	// DefaultTimeout bounds a generator: long enough for a person to touch a token.
	DefaultTimeout = 10 * time.Minute
	// MaxOutput bounds what a generator prints, in bytes; the end is kept for its error.
	MaxOutput = 64 << 10
	// MaxParts bounds the number of a value's parts.
	MaxParts = 64
)
