// Package transport opens SSH connections to hosts and runs commands on them.
//
// Three dialers stand behind one interface: native (golang.org/x/crypto/ssh), openssh (the system's
// own ssh with a master of ours), and local (this machine, no SSH). None of them ever waits without a limit:
// dialing, authentication, opening a channel and keepalives all have timeouts. No secret is ever
// an argument of a process.
package transport

import (
	"context"
	"io"
)

// Target names a host and how it is reached. Empty fields leave the choice to the user's ssh configuration.
type Target struct {
	// Host is the host's name in the fleet; errors name it, and pins are kept under it.
	Host string
	// Address is a name or IP address as the user would give it to ssh, or "local".
	Address string
	Port    int
	User    string
	// JumpHosts are passed through in order, each as [user@]host[:port]; nil leaves it to the user's
	// ssh configuration, an empty non-nil slice forbids any.
	JumpHosts []string
	// Via is another machine of ours that the connection goes through, in place of JumpHosts and of what the user's ssh configuration says
	// of jump hosts and proxies; nil means none. It is reached by its own settings, and its HostKeys count for it. None of its new keys is
	// accepted.
	Via *Target
	// HostKeys are the only acceptable keys ("type base64"); empty means that known hosts decide.
	HostKeys []string
	// AcceptNewHostKey, where no key is known at all, accepts the presented one and hands it to
	// the dialer's RecordHostKey; a changed key is never accepted.
	AcceptNewHostKey bool
}

// Dialer opens connections. It is safe for concurrent use.
type Dialer interface {
	// Dial connects and authenticates; ctx bounds both. The error is one of the package's error
	// types, wrapped, so that a caller can tell an unreachable host from a changed host key.
	Dial(ctx context.Context, target Target) (Conn, error)
}

// Conn is one authenticated connection to a host. It is safe for concurrent use.
type Conn interface {
	// Start runs command, which the login user's shell on the host interprets, on a new channel.
	// Quote with [Quote]. ctx bounds the start alone; [Channel.Close] asks the command to end.
	Start(ctx context.Context, command string, opts ChannelOptions) (Channel, error)
	// Prepare says how many commands Start will run soon. Their channels are opened ahead, all at once and without waiting, so that each
	// of those starts saves a round trip. A server that refuses some of them is asked again when they are needed. Those of an
	// earlier call that were not needed count; those beyond n are closed.
	Prepare(n int)
	// Prepared is how many of these channels are open and not used yet.
	Prepared() int
	// User is the login user on the host.
	User() string
	// HostKey is the host's public key ("type base64"), and what vouched for it; for the openssh
	// and local dialers the key may be empty.
	HostKey() (key string, provenance Provenance)
	// Wait blocks until the connection is gone and returns why; keepalives make that certain.
	Wait() error
	// Close ends the connection and all of its channels. It may be called more than once.
	Close() error
}

// ChannelOptions shape a command's channel.
type ChannelOptions struct {
	// PTY asks for a terminal on the host (doas and run0 need one). Stdout and stderr are then one stream.
	PTY bool
}

// Channel is a running command: Read reads its stdout, Write writes its stdin.
type Channel interface {
	io.Reader
	io.Writer
	// CloseWrite ends the command's stdin.
	CloseWrite() error
	// Stderr reads the command's stderr; it must be drained. It is empty with a PTY.
	Stderr() io.Reader
	// Wait returns once the command has ended and its output was read: nil, an [*ExitError], or why the connection was lost.
	Wait() error
	// Close ends the command's input and output and asks for SIGTERM; it does not wait for the end. sshd sends no signals
	// for root logins, so there a command that neither reads nor writes goes on: make long ones watch their input.
	Close() error
}

// Provenance says why a host key was accepted.
type Provenance string

// The sources of trust in a host key.
const (
	ProvenancePinned     Provenance = "pinned"
	ProvenanceKnownHosts Provenance = "known_hosts"
	ProvenanceCA         Provenance = "cert-authority"
	ProvenanceAccepted   Provenance = "accepted"
	ProvenanceLocal      Provenance = "local"
)
