// Package secretsgen decides what must change in a fleet's secrets, and changes it: it drives generators, re-encryption and the
// state in git. Nothing in it can decrypt; what needs a private key is done on hosts, behind [Hosts].
package secretsgen

import (
	"context"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/step"
)

// Hosts does what only a host can do. It is safe for concurrent use; every call may be made for several hosts at once. Errors name the host.
type Hosts interface {
	// Key is the host's public key as "type base64", from a handshake that the pins were checked in. Where the host shows a key that is not
	// pinned, the error has, somewhere in its chain, a method PresentedKey() string that returns that key as "type base64".
	Key(ctx context.Context, host string) (string, error)
	// Run runs a generator on the host, as the login user. Its program is pushed there first. An error that wraps [ErrUnreachable] says that
	// the generator did not run, so that another host may be asked.
	Run(ctx context.Context, host string, request step.Request) (step.Result, error)
	// Rewrap has the host seal values that it owns to other keys. What cannot be opened is in the results' Error.
	Rewrap(ctx context.Context, host string, request seal.RewrapRequest) (seal.RewrapResult, error)
	// Open decrypts one part that the host owns, and shows it to the operator, with the salt that its commitment is checked with.
	Open(ctx context.Context, host string, part seal.Ref) (seal.Opened, error)
	// Verify has the host decrypt parts in memory and compare them with what they should be, without showing them to anyone. The result is
	// what is wrong, by the parts' order; empty texts are right.
	Verify(ctx context.Context, host string, parts []seal.Ref) ([]string, error)
}
