package transport

import (
	"fmt"
	"strings"
)

// UnreachableKind says what stood between us and the host's SSH server.
type UnreachableKind string

// The kinds of [UnreachableError].
const (
	// UnreachableDNS: the name has no address.
	UnreachableDNS UnreachableKind = "dns"
	// UnreachableRefused: the machine answers, but nothing listens on the port.
	UnreachableRefused UnreachableKind = "refused"
	// UnreachableTimeout: nothing answered in time, or something did that never finished the handshake.
	UnreachableTimeout UnreachableKind = "timeout"
	// UnreachableNoRoute: this machine knows no way to the address.
	UnreachableNoRoute UnreachableKind = "no-route"
	// UnreachableClosed: the connection was closed before authentication.
	UnreachableClosed UnreachableKind = "closed"
	// UnreachableProtocol: what answered is no SSH server, or one that we have no algorithm in common with.
	UnreachableProtocol UnreachableKind = "protocol"
	// UnreachableProxy: the jump host or ProxyCommand did not give us a connection.
	UnreachableProxy UnreachableKind = "proxy"
)

// UnreachableError says that no SSH connection came about, before any key was looked at.
type UnreachableError struct {
	// Host is the host's name in the fleet, Address what was dialed, as host:port.
	Host, Address string
	Kind          UnreachableKind
	Err           error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("reach host %q at %q: %s", e.Host, e.Address, causeText(e.Err, string(e.Kind)))
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Timeout reports whether a limit of ours ended the attempt.
func (e *UnreachableError) Timeout() bool { return e.Kind == UnreachableTimeout }

// Hint names the remedy.
func (e *UnreachableError) Hint() string {
	switch e.Kind {
	case UnreachableDNS:
		return fmt.Sprintf("check that this machine can look up names; if it can, set deploy.address of %q to one that resolves here, or to an IP address", e.Host)
	case UnreachableRefused:
		return fmt.Sprintf("check that sshd runs on %q and that deploy.port is its port", e.Host)
	case UnreachableNoRoute:
		return "check this machine's network (VPN?), or set deploy.jumpHosts"
	case UnreachableProtocol:
		return "check that deploy.port is the port of an SSH server; set deploy.transport = \"openssh\" for algorithms that only the system's ssh has"
	case UnreachableProxy:
		return "try the jump host or ProxyCommand by itself with ssh"
	}
	return fmt.Sprintf("check that %q is up and that no firewall drops the connection", e.Host)
}

// JumpError says that a jump host on the way failed; Err, whose hint holds, says how.
type JumpError struct {
	// Host is the target's name in the fleet, Jump what the jump host is called in the plan or the user's configuration.
	Host, Jump string
	Err        error
}

func (e *JumpError) Error() string {
	return fmt.Sprintf("reach host %q through jump host %q: %v", e.Host, e.Jump, e.Err)
}

// Unwrap returns what failed.
func (e *JumpError) Unwrap() error { return e.Err }

// HostKeyKind says what is wrong with a host key.
type HostKeyKind string

// The kinds of [HostKeyError].
const (
	// HostKeyUnknown: nothing vouches for the key, and nothing contradicts it.
	HostKeyUnknown HostKeyKind = "unknown"
	// HostKeyChanged: other keys are pinned or known for this host.
	HostKeyChanged HostKeyKind = "changed"
	// HostKeyRevoked: the key, or the authority that signed it, is marked @revoked.
	HostKeyRevoked HostKeyKind = "revoked"
)

// HostKeyError says that the server's key was refused. No authentication was attempted.
type HostKeyError struct {
	Host, Address string
	Kind          HostKeyKind
	// Key is what was presented, as "type base64"; the openssh dialer leaves it empty.
	Key string
	// Presented is the SHA-256 fingerprint of that key, in ssh-keygen's notation.
	Presented string
	// Expected are the fingerprints that would have been accepted.
	Expected []string
	// Pinned says that Expected comes from the plan or the state, not from known_hosts.
	Pinned bool
	// File and Line are the known_hosts entry that contradicts or revokes the key, where there is one.
	File string
	Line int
	// Reason says more, for instance what is wrong with a certificate.
	Reason string
}

// PresentedKey is the key that the host showed, as "type base64"; empty where nobody knows. It is for those that must not know this package.
func (e *HostKeyError) PresentedKey() string { return e.Key }

func (e *HostKeyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "verify host key of %q at %q: ", e.Host, e.Address)
	switch e.Kind {
	case HostKeyUnknown:
		fmt.Fprintf(&b, "no key is known, the host presents %s", e.Presented)
	case HostKeyRevoked:
		fmt.Fprintf(&b, "the key %s is revoked", e.Presented)
	default:
		source := "known"
		if e.Pinned {
			source = "pinned"
		}
		fmt.Fprintf(&b, "the key has changed: the host presents %s, %s is %s", e.Presented, source, strings.Join(e.Expected, ", "))
	}
	if e.File != "" {
		fmt.Fprintf(&b, " (%s:%d)", cleanText(e.File, maxErrorText), e.Line)
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, ": %s", cleanText(e.Reason, maxErrorText))
	}
	return b.String()
}

// Hint names the remedy.
func (e *HostKeyError) Hint() string {
	const compare = "compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on the host's console"
	switch {
	case e.Kind == HostKeyUnknown:
		return compare + "; then set deploy.hostKeys, or deploy once with --accept-new-host-keys"
	case e.Kind == HostKeyRevoked:
		return "this key must not be trusted; give the host a new one, or remove the @revoked line if it is wrong"
	case e.Pinned:
		return fmt.Sprintf("if the host was reinstalled, %s, then: fleet secrets host-key accept %s %s; if it was not, somebody may be in between",
			compare, e.Host, e.Presented[strings.LastIndexByte(e.Presented, ' ')+1:])
	case e.File != "":
		return fmt.Sprintf("if the host was reinstalled, %s and remove line %d of %s; if it was not, somebody may be in between",
			compare, e.Line, cleanText(e.File, maxErrorText))
	}
	return "if the host was reinstalled, " + compare + "; if it was not, somebody may be in between"
}

// AuthError says that the host is the right one but does not let us in.
type AuthError struct {
	Host, Address string
	// User is the login user that was tried.
	User string
	// Methods are the SSH authentication methods that were tried.
	Methods []string
	// Offered are the keys that the server was asked about, and Skipped those that could not be
	// offered, with the reason; one line each.
	Offered, Skipped []string
	Err              error
}

func (e *AuthError) Error() string {
	return fmt.Sprintf("log in to %q at %q as %q: %s", e.Host, e.Address, e.User, causeText(e.Err, "permission denied"))
}

// Unwrap returns the cause.
func (e *AuthError) Unwrap() error { return e.Err }

// Hint says which keys were offered, and what to change.
func (e *AuthError) Hint() string {
	var b strings.Builder
	switch {
	case len(e.Offered) > 5:
		fmt.Fprintf(&b, "%d keys were offered, and servers stop after a few: set IdentityFile and IdentitiesOnly for %q in ~/.ssh/config", len(e.Offered), e.Host)
	case len(e.Offered) > 0:
		fmt.Fprintf(&b, "offered: %s; add one of them to %q's authorized keys, or set deploy.user", strings.Join(e.Offered, ", "), e.User)
	default:
		b.WriteString("no key could be offered: start ssh-agent, or set IdentityFile in ~/.ssh/config")
	}
	if len(e.Skipped) > 0 {
		fmt.Fprintf(&b, "; not offered: %s", strings.Join(e.Skipped, ", "))
	}
	return cleanText(b.String(), 4*maxErrorText)
}

// LostError says that an established connection died.
type LostError struct {
	Host, Address string
	// Silent says that keepalives went unanswered; otherwise the connection was closed or reset.
	Silent bool
	Err    error
}

func (e *LostError) Error() string {
	reason := "connection closed"
	if e.Silent {
		reason = "no answer to keepalives"
	}
	return fmt.Sprintf("lost connection to %q at %q: %s", e.Host, e.Address, causeText(e.Err, reason))
}

// Unwrap returns the cause.
func (e *LostError) Unwrap() error { return e.Err }

// Timeout reports whether the connection was given up because nothing came any more.
func (e *LostError) Timeout() bool { return e.Silent }

// Hint names the remedy.
func (e *LostError) Hint() string {
	return fmt.Sprintf("check that %q is still up; what was transferred is kept, so run the same command again", e.Host)
}

// ExitError says that a command on the host ended with a status other than zero, or by a signal.
type ExitError struct {
	Host, Address string
	// Code is the exit status, -1 where a signal ended the command.
	Code int
	// Signal is the signal's name without SIG, empty where the command exited by itself.
	Signal string
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("run command on %q: killed by signal %s", e.Host, e.Signal)
	}
	return fmt.Sprintf("run command on %q: exit status %d", e.Host, e.Code)
}

// Hint names the remedy for the statuses that shells give a meaning.
func (e *ExitError) Hint() string {
	switch e.Code {
	case 126, 127: // POSIX, Shell Command Language 2.8.2
		return fmt.Sprintf("the login shell on %q could not run the command: check its PATH and that no noexec mount is in the way", e.Host)
	}
	return ""
}

// ConfigError says that a target, or the user's ssh configuration for it, cannot be used.
type ConfigError struct {
	Host, Address string
	Err           error
	// Remedy is what Hint returns.
	Remedy string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("prepare connection to %q at %q: %s", e.Host, cleanText(e.Address, maxErrorText), causeText(e.Err, "bad settings"))
}

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *ConfigError) Hint() string { return e.Remedy }

// causeText is what a person reads of err: bounded and free of escapes, because servers and
// foreign programs have a say in it.
func causeText(err error, fallback string) string {
	if err == nil {
		return fallback
	}
	return cleanText(err.Error(), maxErrorText)
}
